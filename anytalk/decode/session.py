"""Holds a conversation with a talker: it takes questions and streams text and sound.

Sound goes through the encoder and the input adapter into the prompt; the columns that follow become text deltas, and
codes that the codec's stream decodes to PCM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from anytalk.decode.arriving import ArrivingText
from anytalk.decode.engine import DecodeOptions, Generation, no_mark
from anytalk.decode.runner import columns_of
from anytalk.decode.stopping import WrittenAhead
from anytalk.decode.telling import AnswerDone, AudioDelta, Telling, TextDelta, ThoughtDelta
from anytalk.decode.thinking import check_room, columns_left, thoughts_before
from anytalk.errors import AudioError, ConfigError
from anytalk.grid.audio import check_speech
from anytalk.grid.prompts import Prompt, Turn
from anytalk.grid.tasks import TASKS, Task, find_task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Ears, Heard, ServedBackbone

Event = ThoughtDelta | TextDelta | AudioDelta | AnswerDone


@dataclass
class Session:
    """Holds a conversation and remembers its turns."""

    talker: Talker
    # Codec frames per piece of sound: more take less time in total, fewer make each piece come sooner. The first piece
    # always comes with the first frame.
    stride_frames: int = 1
    # Called with a name at each point of an answer, to measure times: `"encoded"` (the speech is embedded; also called
    # for typed questions), `"prefilled"`, `"first_frame"` (a whole frame of codes is ready) and `"first_sound"`.
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
    ) -> Generator[Event, None, None]:
        """Ask by text or by voice and yield the answer as it is generated; ``close()`` the generator to stop early.

        Args:
            text: A typed question (for T1A1: the text to read aloud).
            wave: A spoken question, (N,) float32 at the encoder's rate.
            task: The task; by default A1A2 for a spoken question and T1A2 for a typed one.
            options: Decoding options; by default greedy and batch-parallel, with the talker's own rule.
            speaker: Name of the answering voice.

        Raises:
            ConfigError: Neither or both of text and wave were given, or the task doesn't fit them.
            AudioError: The wave is too short, too long or silent.
            ServedError: A served model can't answer, or stops early; then it is raised at the end, after what arrived.
        """
        if (text is None) == (wave is None):
            raise ConfigError("give either a typed or a spoken question", "pass text=... or wave=...")
        chosen = _task(task, spoken=wave is not None)
        if text is not None and not text.strip():
            raise ConfigError("the question is empty", "type something to ask")
        options = options or DecodeOptions(rule=self.talker.config.decode_rule)
        return self._answer(text, wave, chosen, options, speaker)

    # The decorator sets no_grad only while this generator runs. A `with` around its yields would leak to the caller.
    @torch.no_grad()
    def _answer(
        self, text: str | None, wave: np.ndarray | None, task: Task, options: DecodeOptions, speaker: str | None
    ) -> Generator[Event, None, None]:
        started = time.perf_counter()
        talker = self.talker
        speaker_row = talker.speaker_index(speaker)
        # Transcribing ears turn a spoken question into a typed one: the words go into the prompt.
        heard = None if wave is None else listen(talker, wave)
        self.mark("encoded")
        turn = Turn("user", text) if heard is None else spoken_turn("user", None, heard)
        task = task if heard is None else task_after(task, heard)
        spoken = [] if heard is None or heard.columns is None else [heard]
        turns, all_heard = [*self._turns, turn], [*self._heard, *spoken]
        prompt = talker.prompts.prompt(task, turns)
        in_prompt = all_heard[: len(prompt.speech_spans)]
        speech = [one.columns for one in in_prompt if one.columns is not None]
        thinking = thoughts_before(talker, task, prompt, speech, options)
        if thinking is not None:
            thoughts = Telling(talker, thinking.answer, speaks=False, started=started, reader=thinking.reader)
            for _ in columns_of(thinking):
                yield from thoughts.thought()
            # The answer's generation continues the prompt, with the thoughts as text.
            prompt = thinking.prompt_of_answer(prompt)
        generation = begin_generation(talker, task, turn, prompt, in_prompt, options, speaker_row, self.mark)
        telling = Telling(
            talker,
            generation.answer,
            speaks=task.audio_out,
            started=started,
            stride_frames=self.stride_frames,
            mark=self.mark,
            written=generation.written,
        )
        try:
            for _ in columns_of(generation):
                yield from telling.thought_elsewhere(generation)
                yield from telling.text()
                if telling.is_due:
                    yield from telling.say()
        finally:
            generation.close()
        yield from telling.rest_of_text()
        yield from telling.say(is_last=True)
        done = telling.done()
        # Transcripts and texts read aloud are no part of the conversation; what arrived before an error is.
        if task.answer == "answer" and (done.text or generation.error is None):
            self._turns += [turn, Turn("assistant", done.text)]
            self._heard += spoken
        if generation.error is not None:
            raise generation.error
        yield done


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
    """Return the generation of a prompt's answer: its rows, its given text and its maximum length.

    Args:
        turn: The last turn, which has the text to read aloud, or whose length bounds a transcript.
        prompt: The prompt of the whole conversation.
        heard: The spoken turns in it.
        speaker: Row of the speaker embedding.

    Raises:
        ConfigError: The prompt leaves the model no position for an answer.
    """
    check_room(talker, prompt)
    options = replace(options, max_columns=columns_left(talker, prompt, options.max_columns))
    given = None
    # Ears that recognise tokens have the transcript already; otherwise the backbone writes it, up to a limit.
    if task.answer == "question" and turn.speech_columns:
        given = None if heard[-1].line is None else list(heard[-1].line)
        options = replace(options, max_columns=min(options.max_columns, longest_transcript(turn.speech_columns)))
    elif task.answer == "question":
        given = talker.model.backbone.tokenizer.encode(turn.text or "")
    prompts, silent = [prompt], talker.prompts.text_only_row(prompt)
    speech = [turn.columns for turn in heard if turn.columns is not None]
    pattern = talker.config.grid.delay_pattern()
    arriving: ArrivingText | WrittenAhead | None = None
    backbone = talker.model.backbone
    if given is None and isinstance(backbone, ServedBackbone):
        arriving = ArrivingText(backbone, prompt, options.text, options.max_columns, options.seed, options.stops)
    elif given is None and options.stops and task.audio_out:
        writer = Generation(talker.model, pattern, options, [silent], speech, audio_out=False)
        arriving = WrittenAhead(writer, backbone.tokenizer)
    elif given is None and task.audio_out and options.batch_parallel and talker.model.route.num_rows > 1:
        prompts.append(silent)
    return Generation(
        talker.model,
        pattern,
        options,
        prompts,
        speech,
        audio_out=task.audio_out,
        given_text=given,
        arriving=arriving,
        speaker=speaker,
        mark=mark,
    )


def spoken_turn(role: str, text: str | None, heard: Heard) -> Turn:
    """Return a spoken turn: its columns, or the words that transcribing ears wrote."""
    if heard.columns is None:
        return Turn(role, heard.text if text is None else text)
    return Turn(role, text, speech_columns=heard.num_columns)


def task_after(task: Task, heard: Heard) -> Task:
    """Return the task of a spoken question once it was listened to: that of a typed one if the ears transcribed it.

    Raises:
        AudioError: No words were recognised, so there is nothing to answer.
    """
    if heard.columns is not None or not task.speech_in:
        return task
    if not heard.text and task.answer == "answer":
        raise AudioError("no words were heard in the question", "speak louder, or closer to the microphone")
    return replace(task, speech_in=False)


def longest_transcript(speech_columns: int) -> int:
    """Return the most tokens that a transcript of so many columns of speech may have.

    Input adapters give several columns per word, or one per token, so speech never has twice as many tokens as columns.
    Without this limit, a small model that loses track would go on for as long as an answer may.
    """
    return 2 * speech_columns + 8


def listen(talker: Talker, wave: np.ndarray, name: str = "the question") -> Heard:
    """Encode or transcribe one wave, (N,) float32 at the encoder's rate.

    Raises:
        ConfigError: The talker has no ears.
        AudioError: The wave is too short, too long or silent.
    """
    return listen_to_all(talker, [wave], name)[0]


@torch.no_grad()
def listen_to_all(
    talker: Talker,
    waves: Sequence[np.ndarray],
    name: str = "the question",
    checked: bool = False,
    told: Ears | None = None,
) -> list[Heard]:
    """Listen to several waves (N,) in one call of the ears; raises what :func:`listen` raises.

    Args:
        talker: The talker that listens.
        waves: (N,) float32 each, at the encoder's rate.
        name: What error messages call them.
        checked: Whether the waves were checked before, for example as one turn that was then cut into pieces.
        told: Ears that write and know something of these waves, in place of the talker's own.
    """
    model = talker.model
    ears = model.listener
    if ears is None:
        raise ConfigError("this talker has no ears", "attach it again with a speech encoder, or ask by text")
    for wave in () if checked else waves:
        if wave.ndim != 1:
            raise AudioError(f"a wave of shape {wave.shape} was given; (N,) mono is expected", "mix it to one channel")
        check_speech(wave, ears.sample_rate_hz, name, ears.max_duration_s)
    if told is not None:
        return told.listen([torch.from_numpy(wave).to(talker.device) for wave in waves])
    lengths = torch.tensor([len(wave) for wave in waves], device=talker.device)
    # Padded on the right; encoders are given the lengths and ignore the rest.
    samples = torch.zeros(len(waves), max(len(wave) for wave in waves), device=talker.device)
    for row, wave in zip(samples, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    return model.listen(samples, lengths)
