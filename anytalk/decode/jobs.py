"""Takes one answer from question to end: listening, prompt, columns, text and sound, in the model's thread."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.entering import Slot
from anytalk.decode.memory import Memory
from anytalk.decode.session import begin_generation, listen_to_all, spoken_turn, task_after
from anytalk.decode.telling import AnswerDone, AudioDelta, Telling, TextDelta, ThoughtDelta
from anytalk.decode.thinking import Thinking, thoughts_before
from anytalk.errors import ConfigError
from anytalk.grid.prompts import Prompt, Turn
from anytalk.grid.tasks import TASKS, Task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import CodecStream, Ears, Heard, HeardWord, TimesWords

_NUMBERS = itertools.count()
TURNS_DROPPED_AT_ONCE = 16
"""How many old turns prompts and conversations leave out together; prompts then share a beginning that is cached."""


class Speech:
    """Holds a spoken question. An answer that needs it has it encoded or transcribed, and its samples are then dropped.

    Args:
        wave: (N,) float32 at the encoder's rate.
        before: Earlier pieces of the same turn, which may have been listened to already. No piece is checked for
            speech, because one by itself may be silent; the turn was checked before it was cut.
        is_timed: Whether to find out when each word was said, if the ears can.
        ears: Ears that know something of it (:class:`~anytalk.plugins.contracts.TakesHints`); default: the talker's.

    Attributes:
        words: The words with their times, if `is_timed` and the ears can tell.
    """

    def __init__(
        self, wave: np.ndarray, before: Sequence[Speech] = (), is_timed: bool = False, ears: Ears | None = None
    ) -> None:
        self.number = next(_NUMBERS)
        self.num_samples: int = len(wave) + sum(piece.num_samples for piece in before)
        self._wave: np.ndarray | None = wave
        self._before = tuple(before)
        self._heard: Heard | None = None
        self._is_timed = is_timed
        self._ears = ears
        self.words: Sequence[HeardWord] = ()

    @property
    def was_heard(self) -> bool:
        """Whether :meth:`heard` returns at once."""
        return self._heard is not None

    @property
    def text(self) -> str | None:
        """Return the words, once ears that transcribe have listened."""
        return None if self._heard is None else self._heard.text

    def heard(self, talker: Talker) -> Heard:
        """Listen, the first time; return the columns or the words for the prompt.

        Raises:
            AnytalkError: See :func:`anytalk.decode.session.listen`.
        """
        self.hear_all(talker, [self])
        assert self._heard is not None
        return self._heard

    def hear_next(self, talker: Talker) -> bool:
        """Listen to the next piece, and return whether all are done now; raises what :meth:`heard` raises."""
        unheard = [piece for piece in self._before if not piece.was_heard]
        self.hear_all(talker, unheard[:1] or [self])
        return not unheard

    @staticmethod
    def hear_all(talker: Talker, questions: Sequence[Speech]) -> None:
        """Listen to several questions in one call of the ears.

        Raises:
            AnytalkError: As :meth:`heard`; none of the questions counts as listened to then.
        """
        # A dict, because a question may be here twice: for its answer and for its transcript.
        speeches = [part for speech in questions for part in (*speech._before, speech)]
        new = {speech: speech._wave for speech in speeches if speech._wave is not None}
        if not new:
            return
        checked = any(speech._before for speech in questions)
        all_heard: dict[Speech, Heard] = {}
        for told in {speech._ears: None for speech in new}:
            together = [speech for speech in new if speech._ears is told]
            waves = [new[speech] for speech in together]
            all_heard |= zip(together, listen_to_all(talker, waves, checked=checked, told=told), strict=True)
        for speech, wave in new.items():
            heard = all_heard[speech]
            ears: object = speech._ears or talker.model.ears
            if speech._is_timed and isinstance(ears, TimesWords):
                speech.words = ears.word_times(torch.from_numpy(wave), heard.text or "")
            if speech._before:
                heard = Heard.joined([*(piece.heard(talker) for piece in speech._before), heard])
            speech._heard, speech._wave, speech._before = heard, None, ()


@dataclass(frozen=True)
class Said:
    """Holds a turn of a conversation; see :class:`anytalk.grid.prompts.Turn`."""

    role: str
    text: str | None = None
    speech: Speech | None = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """Says what is asked of the model, and how to answer it."""

    turns: Sequence[Said]  # the conversation; the user's question is last
    task: Task  # what to do with the question
    options: DecodeOptions  # how to decode the answer
    speaker: str | None = None  # name of the answering voice
    # How the answer begins, as the chat template writes it: part of the prompt, not of the events. Chat prompts only.
    opening: str = ""
    choices: tuple[str, ...] = ()  # the texts with which it may go on; () for any
    max_context_columns: int = 2048  # longest prompt; the oldest turns are left out until it fits


@dataclass(frozen=True)
class Started:
    """Begins an answer, once its prompt has been read."""

    prompt_columns: int  # columns of the prompt
    cached_columns: int  # those of them that were in the caches since the turn before
    speech_columns: int = 0  # those of them that spoken turns take, as speech or as recognised words


@dataclass(frozen=True)
class Ended:
    """Ends an answer."""

    done: AnswerDone  # the whole answer, with its times
    text_tokens: int  # how many tokens its text has


@dataclass(frozen=True)
class Failed:
    """Ends an answer with an error."""

    message: str  # what went wrong, in words for the client
    is_ours: bool  # whether the fault is the server's


Event = Started | ThoughtDelta | TextDelta | AudioDelta | Ended | Failed


@dataclass(eq=False)
class Job:
    """Turns a question into events: the start, thoughts, text, sound, and the end or an error."""

    question: Question
    # Called in the model's thread with each event; the last one is an `Ended` or a `Failed`.
    emit: Callable[[Event], None]
    memory: Memory | None = None  # of the conversation
    # Once set, from any thread, the answer makes no more sound, and ends with its text.
    mute: threading.Event = field(default_factory=threading.Event)
    is_cancelled: bool = False  # may be set from any thread; the answer then ends without another event
    slot: Slot | None = None
    _started: float = field(default_factory=time.perf_counter)
    _telling: Telling | None = None
    _thoughts: Generation | None = None
    _is_thinking: bool = False
    _has_begun: bool = False
    _speech_columns: int = 0

    def cancel(self) -> None:
        self.is_cancelled = True

    @property
    def unheard(self) -> list[Speech]:
        """Return the spoken turns that were not listened to yet."""
        found = (said.speech for said in self.question.turns)
        return [speech for speech in found if speech is not None and not speech.was_heard]

    def prepare(self, talker: Talker, stride_frames: int) -> None:
        """Build the prompt and the generation; called again after thoughts, which then precede the answer."""
        question, last = self.question, self.question.turns[-1].speech
        # Listening may raise, for example because there are no words; that ends this answer only.
        self._task = question.task if last is None else task_after(question.task, last.heard(talker))
        speaker = talker.speaker_index(question.speaker)
        prompt, heard = self._fit(talker)
        in_prompt = [speech.heard(talker) for speech in heard]
        if self.has_thought and self.slot is not None:
            self._thoughts = self.slot.generation
        generation: Generation | None = None
        # Second pass: the thoughts are complete and become part of the prompt.
        if isinstance(self._thoughts, Thinking):
            prompt = self._thoughts.prompt_of_answer(prompt)
        elif not question.opening:
            columns = [one.columns for one in in_prompt if one.columns is not None]
            generation = thoughts_before(talker, self._task, prompt, columns, question.options)
        turn = _turn(question.turns[-1], talker)
        self._is_thinking = generation is not None
        encode = talker.model.backbone.tokenizer.encode
        # A call that an answer has to begin with is no text that a stop string could end.
        stops = () if question.opening else question.options.stops
        # Texts become tokens here, because only the talker's tokenizer can make them.
        beginnings = tuple(tuple(encode(choice)) for choice in question.choices)
        options = replace(question.options, beginnings=beginnings, stops=stops)
        generation = generation or begin_generation(talker, self._task, turn, prompt, in_prompt, options, speaker)
        self._telling = Telling(
            talker,
            generation.answer,
            speaks=self._task.audio_out and not self._is_thinking,
            started=self._started,
            stride_frames=stride_frames,
            written=generation.written,
            reader=generation.reader if isinstance(generation, Thinking) else None,
        )
        # A transcript, or a text read aloud, is no part of the conversation.
        memory = self.memory if question.task.answer == "answer" else None
        self.slot = Slot(generation, memory, [speech.number for speech in heard])

    def begin(self) -> None:
        """Emit :class:`Started`, the first time it is called."""
        assert self.slot is not None
        if self._has_begun:
            return
        self._has_begun = True
        columns = self.slot.generation.prompts[0].num_columns
        self.emit(Started(columns, self.slot.cached_columns, self._speech_columns))

    def write(self) -> None:
        """Emit what the last column added to the text, or to the thoughts before it."""
        if self.mute.is_set():
            self.telling.stream = None
        if self._is_thinking:
            for thought in self.telling.thought():
                self.emit(thought)
            return
        if self.slot is not None:
            for thought in self.telling.thought_elsewhere(self.slot.generation):
                self.emit(thought)
        for delta in self.telling.text():
            self.emit(delta)

    @property
    def telling(self) -> Telling:
        """Return what turns the answer into events; it exists once :meth:`prepare` has run."""
        assert self._telling is not None
        return self._telling

    @property
    def has_thought(self) -> bool:
        """Whether its thoughts are complete, so that it has to be prepared again, for the answer."""
        return self._is_thinking and self.slot is not None and self.slot.is_done

    @property
    def is_done(self) -> bool:
        if self.slot is None:
            return False
        return self.slot.is_done or (self.mute.is_set() and self.telling.written.is_written)

    @property
    def has_sound(self) -> bool:
        """Whether the codec has frames to decode, or held-back samples to release."""
        return self.telling.is_due or (self.is_done and self.telling.stream is not None)

    def take_codes(self) -> tuple[CodecStream, Tensor]:
        """Return the stream and the new codes (1,K,t) that it has to decode; each code is returned once."""
        assert self.telling.stream is not None
        return self.telling.stream, self.telling.take()

    def speak(self, pushed: Tensor) -> None:
        """Emit the (1,n) samples that the codec decoded."""
        for piece in self.telling.sound(pushed, is_last=self.is_done):
            self.emit(piece)

    def finish(self) -> None:
        """Emit the rest of the text and :class:`Ended`.

        Raises:
            AnytalkError: A served model's text ended early with this error.
        """
        for delta in self.telling.rest_of_text():
            self.emit(delta)
        if self.slot is not None and self.slot.generation.error is not None:
            raise self.slot.generation.error
        self.emit(Ended(self.telling.done(), len(self.telling.written.text_ids)))

    def _fit(self, talker: Talker) -> tuple[Prompt, list[Speech]]:
        """Return the longest prompt that fits, and the spoken turns in it; a system turn always stays.

        Old turns are left out several at a time, so that the next prompts begin with the same turns, which are cached.
        """
        *earlier, last = self.question.turns
        # A breath that was taken for a turn has no words, and no answer.
        turns = [*(said for said in earlier if said.speech is None or said.speech.heard(talker).text != ""), last]
        front = 1 if turns and turns[0].role == "system" else 0
        prompt, heard = self._lay_out(talker, turns, front, 0)
        if prompt is not None:
            return prompt, heard
        # The last entry drops everything but the question itself.
        dropped = [*range(0, len(turns) - front - 1, TURNS_DROPPED_AT_ONCE), len(turns) - front - 1]
        # Fewer turns make a shorter prompt, so a binary search finds how few have to go.
        place = bisect.bisect_left(dropped, True, key=lambda n: self._lay_out(talker, turns, front, n)[0] is not None)
        prompt, heard = self._lay_out(talker, turns, front, dropped[min(place, len(dropped) - 1)])
        if prompt is None:
            raise ConfigError(
                f"the question takes more than the {self._most_columns(talker)} columns that the model can take",
                "ask a shorter question",
            )
        return prompt, heard

    def _lay_out(
        self, talker: Talker, turns: list[Said], front: int, dropped: int
    ) -> tuple[Prompt | None, list[Speech]]:
        """Build the prompt without the `dropped` oldest turns; None if it is too long. Also return its spoken turns."""
        rest = turns[front + dropped :]
        # The rest must not begin with an answer whose question is gone.
        while dropped and len(rest) > 1 and rest[0].role == "assistant":
            rest = rest[1:]
        kept = [*turns[:front], *rest]
        laid_out = [_turn(said, talker) for said in kept]
        prompt = talker.prompts.prompt(self._task, laid_out, self.question.opening)
        spoken = [(said.speech, turn) for said, turn in zip(kept, laid_out, strict=True) if said.speech is not None]
        heard = [speech for speech, turn in spoken if turn.is_heard(self._task)]
        encode = talker.model.backbone.tokenizer.encode
        # Clients are told how much of the prompt is speech, as OpenAI's usage counts it.
        self._speech_columns = sum(
            turn.speech_columns if turn.is_heard(self._task) else len(encode(turn.text or "")) for _, turn in spoken
        )
        return (prompt if prompt.num_columns <= self._most_columns(talker) else None), heard

    def _most_columns(self, talker: Talker) -> int:
        """Return the longest prompt in columns; a quarter of the model's positions is left for the answer."""
        wanted, positions = self.question.max_context_columns, talker.model.backbone.max_positions
        return wanted if positions is None else min(wanted, positions * 3 // 4)


def front_of(talker: Talker) -> Generation:
    """Return a generation for the beginning that all conversations share, up to a question of one letter."""
    system = talker.config.grid.system
    turns = [*([Turn("system", system)] if system else []), Turn("user", "a")]
    prompt = talker.prompts.prompt(TASKS["T1A2"], turns)
    return Generation(
        talker.model,
        talker.config.grid.delay_pattern(),
        DecodeOptions(max_columns=1),
        [prompt, talker.prompts.text_only_row(prompt)][: talker.model.route.num_rows],
        [],
        audio_out=True,
    )


def _turn(said: Said, talker: Talker) -> Turn:
    if said.speech is None:
        return Turn(said.role, said.text)
    return spoken_turn(said.role, said.text, said.speech.heard(talker))
