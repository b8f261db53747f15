"""A conversation with a talker: questions in, text and sound out as they come.

wave -> encoder -> input adapter -> prompt -> columns -> text deltas, and codes -> codec stream -> PCM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.answer import Answer
from anytalk.decode.engine import DecodeOptions, Generation, no_mark
from anytalk.decode.overlap import OverlappedStream
from anytalk.errors import AudioError, ConfigError
from anytalk.grid.audio import check_speech
from anytalk.grid.prompts import Prompt, Turn
from anytalk.grid.tasks import TASKS, Task, find_task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Heard


@dataclass(frozen=True)
class TextDelta:
    """A piece of the text answer; pieces joined are the whole."""

    text: str


@dataclass(frozen=True)
class AudioDelta:
    """A piece of the spoken answer.

    Attributes:
        wave: (n,) float32 at the codec's rate.
    """

    wave: np.ndarray


@dataclass(frozen=True)
class AnswerDone:
    """The end of an answer, with what it took.

    Attributes:
        text: The whole text.
        finish_reason: ``"stop"``, or ``"length"`` when the column budget ran out.
        num_columns: Generated columns.
        num_frames: Codec frames spoken.
        wall_s: From the question's arrival to the last sample.
        first_audio_s: From the question's arrival to the first sample; None without sound.
        audio_s: Length of the spoken answer.
    """

    text: str
    finish_reason: str
    num_columns: int
    num_frames: int
    wall_s: float
    first_audio_s: float | None
    audio_s: float

    @property
    def real_time_factor(self) -> float | None:
        """Wall-clock seconds per second of speech (below 1 is faster than real time); None without sound."""
        return self.wall_s / self.audio_s if self.audio_s else None


Event = TextDelta | AudioDelta | AnswerDone


@dataclass
class Session:
    """A conversation; it remembers its turns.

    Attributes:
        talker: Who answers.
        stride_frames: Codec frames per piece of sound; more is cheaper, fewer is sooner. The first piece never waits.
        overlap: Let the codec work in a thread of its own while the next columns are computed; the same sound.
        mark: Called with a name when a part of an answer is done, for whoever takes the time: ``"encoded"`` (speech is
            embedded; also for typed questions), ``"prefilled"``, ``"first_frame"`` (a whole frame of codes is there)
            and ``"first_sound"``.
    """

    talker: Talker
    stride_frames: int = 1
    overlap: bool = False
    mark: Callable[[str], None] = no_mark
    _turns: list[Turn] = field(default_factory=list)
    _heard: list[Heard] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.stride_frames < 1:
            raise ConfigError(f"stride_frames is {self.stride_frames}; expected 1 or more", "change --stride")

    def reset(self) -> None:
        """Forget the conversation."""
        self._turns.clear()
        self._heard.clear()

    def ask(
        self,
        *,
        text: str | None = None,
        wave: np.ndarray | None = None,
        task: Task | str | None = None,
        options: DecodeOptions | None = None,
        speaker: str | None = None,
    ) -> Iterator[Event]:
        """Ask by text or by voice; iterate for the answer as it comes.

        Args:
            text: A typed question (for T1A1: what to read aloud).
            wave: A spoken question, (N,) float32 at the encoder's rate.
            task: Default: A1A2 for a spoken question, T1A2 for a typed one.
            options: How to decode; default: greedy, batch-parallel, the talker's own rule.
            speaker: Name of the answering voice.

        Raises:
            ConfigError: neither or both of text and wave, or a task that doesn't fit them.
            AudioError: a wave that is too short, too long or silent.
        """
        if (text is None) == (wave is None):
            raise ConfigError("give either a typed or a spoken question", "pass text=... or wave=...")
        chosen = _task(task, spoken=wave is not None)
        if text is not None and not text.strip():
            raise ConfigError("the question is empty", "type something to ask")
        options = options or DecodeOptions(rule=self.talker.config.decode_rule)
        return self._answer(text, wave, chosen, options, speaker)

    # As a decorator it holds only while this generator runs; a `with` around a yield would reach into the caller.
    @torch.no_grad()
    def _answer(
        self, text: str | None, wave: np.ndarray | None, task: Task, options: DecodeOptions, speaker: str | None
    ) -> Iterator[Event]:
        started = time.perf_counter()
        talker = self.talker
        speaker_row = talker.speaker_index(speaker)
        heard = None if wave is None else listen(talker, wave)
        self.mark("encoded")
        turn = Turn("user", text) if heard is None else spoken_turn("user", None, heard)
        task = task if heard is None else task_after(task, heard)
        spoken = [] if heard is None or heard.columns is None else [heard]
        turns, all_heard = [*self._turns, turn], [*self._heard, *spoken]
        prompt = talker.prompts.prompt(task, turns)
        tokenizer = talker.model.backbone.tokenizer
        generation = begin_generation(
            talker, task, turn, prompt, all_heard[: len(prompt.speech_spans)], options, speaker_row, self.mark
        )
        mouth = Mouth(talker, started, self.mark, self.overlap) if task.audio_out else None
        said = ""
        num_read = 0
        for _ in generation:
            ids = generation.answer.text_ids
            # Decoding all ids again is needed for new ones only: not in the columns behind the text's end.
            delta = text_delta(tokenizer.decode(ids), said) if len(ids) > num_read else ""
            num_read = len(ids)
            if delta:
                said += delta
                yield TextDelta(delta)
            if mouth is not None and mouth.is_due(generation.answer, self.stride_frames):
                yield from mouth.say(generation.answer)
        whole = tokenizer.decode(generation.answer.text_ids)
        if whole.startswith(said) and whole != said:
            yield TextDelta(whole[len(said) :])
        if mouth is not None:
            yield from mouth.say(generation.answer, is_last=True)
        if task.answer == "answer":
            self._turns += [turn, Turn("assistant", whole)]
            self._heard += spoken
        yield AnswerDone(
            text=whole,
            finish_reason=generation.answer.finish_reason or "stop",
            num_columns=max(len(generation.answer.columns), len(generation.answer.text_ids)),
            num_frames=mouth.num_frames if mouth else 0,
            wall_s=time.perf_counter() - started,
            first_audio_s=mouth.first_audio_s if mouth else None,
            audio_s=mouth.num_samples / talker.codec.sample_rate_hz if mouth else 0.0,
        )


class Mouth:
    """Turns the frames of an answer into sound as they become ready, and counts them."""

    def __init__(self, talker: Talker, started: float, mark: Callable[[str], None], overlap: bool = False) -> None:
        self.mark = mark
        stream = talker.codec.new_stream()
        self.stream = OverlappedStream(stream) if overlap else stream
        self.device = talker.device
        self.started = started
        self.num_frames = 0
        self.num_samples = 0
        self.first_audio_s: float | None = None

    def is_due(self, answer: Answer, stride_frames: int) -> bool:
        """Whether enough frames are ready for the next piece: one until the first sound, then `stride_frames`."""
        return answer.frames_ready - self.num_frames >= (1 if self.first_audio_s is None else stride_frames)

    def say(self, answer: Answer, is_last: bool = False) -> Iterator[AudioDelta]:
        """What is ready and was not said yet; with `is_last` also what the codec holds back."""
        yield from self.sound(self.stream.push(self.take(answer)), is_last)

    def take(self, answer: Answer) -> Tensor:
        """(1,K,t) codes that are ready and were not said yet; whoever takes them has the stream decode them."""
        ready = max(self.num_frames, answer.frames_ready)
        if ready and not self.num_frames:
            self.mark("first_frame")
        codes = torch.from_numpy(answer.codes(self.num_frames, ready))[None].to(self.device)
        self.num_frames = ready
        return codes

    def sound(self, pushed: Tensor, is_last: bool = False) -> Iterator[AudioDelta]:
        """(1,n) that the stream made of what was taken, as an event; with `is_last` also what it holds back."""
        pieces = [pushed] + ([self.stream.flush()] if is_last else [])
        wave = torch.cat(pieces, dim=1)[0].cpu().numpy()
        if len(wave):
            if self.first_audio_s is None:
                self.first_audio_s = time.perf_counter() - self.started
                self.mark("first_sound")
            self.num_samples += len(wave)
            yield AudioDelta(wave)


def _task(task: Task | str | None, *, spoken: bool) -> Task:
    if isinstance(task, str):
        task = find_task(task)
    if task is None:
        task = TASKS["A1A2" if spoken else "T1A2"]
    if task.speech_in != spoken:
        kind, other = ("spoken", "typed") if spoken else ("typed", "spoken")
        raise ConfigError(f"task {task.name} needs a {other} question; a {kind} one was given", "choose another task")
    return task


def begin_generation(
    talker: Talker,
    task: Task,
    turn: Turn,
    prompt: Prompt,
    heard: Sequence[Heard],
    options: DecodeOptions,
    speaker: int | None,
    mark: Callable[[str], None] = no_mark,
) -> Generation:
    """The generation that a prompt asks for: which rows it runs, what is given, how long it may be.

    Args:
        talker: Who answers.
        task: What is asked for.
        turn: The last one, for the words to read aloud or the length of what is written down.
        prompt: Of the whole conversation.
        heard: Its spoken turns.
        options: How to decode.
        speaker: Row of the speaker embedding.
        mark: See :class:`Generation`.
    """
    given = None
    if task.answer == "question" and turn.speech_columns:
        given = None if heard[-1].line is None else list(heard[-1].line)
        options = replace(options, max_columns=min(options.max_columns, longest_transcript(turn.speech_columns)))
    elif task.answer == "question":
        given = talker.model.backbone.tokenizer.encode(turn.text or "")
    prompts = [prompt]
    if task.audio_out and options.batch_parallel and given is None and talker.model.route.num_rows > 1:
        prompts.append(talker.prompts.text_only_row(prompt))
    pattern = talker.config.grid.delay_pattern()
    return Generation(
        talker.model,
        pattern,
        options,
        prompts,
        [turn.columns for turn in heard if turn.columns is not None],
        audio_out=task.audio_out,
        given_text=given,
        speaker=speaker,
        mark=mark,
    )


def spoken_turn(role: str, text: str | None, heard: Heard) -> Turn:
    """A turn that was spoken: its columns, or its words typed where the ears wrote them."""
    if heard.columns is None:
        return Turn(role, heard.text if text is None else text)
    return Turn(role, text, speech_columns=heard.num_columns)


def task_after(task: Task, heard: Heard) -> Task:
    """The task of a spoken question once it was heard: as of a typed one where the ears wrote its words.

    Raises:
        AudioError: no words were heard, so there is nothing to answer.
    """
    if heard.columns is not None or not task.speech_in:
        return task
    if not heard.text and task.answer == "answer":
        raise AudioError("no words were heard in the question", "speak louder, or closer to the microphone")
    return replace(task, speech_in=False)


def longest_transcript(speech_columns: int) -> int:
    """Columns at most for the transcript of so many columns of speech.

    Adapters give several columns for each word, or one for each token that is heard, so twice as many tokens were never
    said: a small model that loses the thread must not go on for as long as an answer may.
    """
    return 2 * speech_columns + 8


def text_delta(whole: str, said: str) -> str:
    """What can be said now: not a character whose bytes are still incomplete, nothing that may still change."""
    if whole.endswith("\ufffd") or not whole.startswith(said):
        return ""
    return whole[len(said) :]


def listen(talker: Talker, wave: np.ndarray, name: str = "the question") -> Heard:
    """Hear one wave, (N,) float32 at the encoder's rate.

    Raises:
        ConfigError: a talker without ears.
        AudioError: a wave that is too short, too long or silent.
    """
    return listen_to_all(talker, [wave], name)[0]


@torch.no_grad()
def listen_to_all(talker: Talker, waves: Sequence[np.ndarray], name: str = "the question") -> list[Heard]:
    """Hear several waves (N,) in one call of the ears; raises what :func:`listen` raises."""
    model = talker.model
    ears = model.listener
    if ears is None:
        raise ConfigError("this talker has no ears", "attach it again with a speech encoder, or ask by text")
    for wave in waves:
        if wave.ndim != 1:
            raise AudioError(f"a wave of shape {wave.shape} was given; (N,) mono is expected", "mix it to one channel")
        check_speech(wave, ears.sample_rate_hz, name, ears.max_duration_s)
    lengths = torch.tensor([len(wave) for wave in waves], device=talker.device)
    samples = torch.zeros(len(waves), max(len(wave) for wave in waves), device=talker.device)
    for row, wave in zip(samples, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    return model.listen(samples, lengths)
