"""Rows to examples (sound as numbers: encoder features, codec codes), and examples to the grids of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from anytalk.errors import AudioError, ConfigError, DataError, did_you_mean
from anytalk.grid.audio import check_speech, read_wave, sound_name
from anytalk.grid.prompts import TrainingGrid, Turn
from anytalk.grid.tasks import T1T2, Task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Audio, Codec, Row, SpeechEncoder

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

Augment = Callable[[np.ndarray, int, str], np.ndarray]
"""(N,) float32, its rate in Hz and the row's id -> (N',) float32, the same for the same id."""


@dataclass(frozen=True)
class Clip:
    """A spoken turn of the user.

    Attributes:
        num_frames: F.
        duration_s: Its length.
        features: (F,E) float32 encoder features, or None where they are not kept.
        wave: (N,) float32 at the encoder's rate, or None where it is not kept.
    """

    num_frames: int
    duration_s: float
    features: Tensor | None = None
    wave: Tensor | None = None


@dataclass(frozen=True)
class PastTurn:
    """A turn before the question."""

    role: str
    text: str | None
    clip: Clip | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row with its sound turned into numbers.

    Attributes:
        id: Its name in messages.
        tasks: Tasks that it serves.
        question_text: What was asked, as text.
        clip: What was asked, as sound.
        answer_text: What is answered.
        codes: (codec streams, frames) int64 of the spoken answer.
        answer_s: Length of the spoken answer; 0 without one.
        speaker: Name of the answering voice.
        history: Turns before the question.
    """

    id: str
    tasks: tuple[str, ...]
    question_text: str | None = None
    clip: Clip | None = None
    answer_text: str | None = None
    codes: np.ndarray | None = None
    answer_s: float = 0.0
    speaker: str | None = None
    history: tuple[PastTurn, ...] = ()

    def heard(self, task: Task) -> list[PastTurn]:
        """The spoken turns that stand in this task's prompt, in order: one for each of its grid's speech spans."""
        turns = [*_past(self, task), PastTurn("user", self.question_text, self.clip if task.speech_in else None)]
        return [t for t in turns if t.clip is not None and (task.speech_in or t.text is None)]

    def clips(self, task: Task) -> list[Clip]:
        """The sound of :meth:`heard`."""
        return [turn.clip for turn in self.heard(task) if turn.clip is not None]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How rows become examples.

    Attributes:
        encoder: Ears; None where no task listens.
        codec: Makes the codes of spoken answers; None where no task speaks.
        keep_features: Keep the encoder's features of spoken questions.
        keep_waves: Keep their sound (for a stage that trains the encoder, or that encodes while it trains).
        speakers: Voices that the talker has an embedding for; empty: rows of any voice are taken.
        augment: Changes the sound of questions first.
        device: Torch device of encoder and codec.
    """

    encoder: SpeechEncoder | None
    codec: Codec | None
    keep_features: bool = True
    keep_waves: bool = False
    speakers: Sequence[str] = ()
    augment: Augment | None = None
    device: str = "cpu"


def missing_for(row: Row, task: Task) -> list[str]:
    """Fields that a row lacks for a task; empty where it can serve it."""
    speaks = row.answer_audio is not None or row.answer_codes is not None
    has = {
        "question_text": row.question_text is not None,
        "question_audio": row.question_audio is not None,
        "answer_text": row.answer_text is not None,
        "answer_audio": speaks,
    }
    needed = {
        "question_audio": task.speech_in,
        "answer_audio": task.audio_out,
        "answer_text": task.answer == "answer" or task.audio_out,
        "question_text": (not task.speech_in and task.answer == "answer")
        or (task.speech_in and task.answer == "question"),
    }
    return [field for field, is_needed in needed.items() if is_needed and not has[field]]


def tasks_of(row: Row, tasks: Iterable[Task], must: bool = False) -> list[Task]:
    """Those of the tasks that a row may and can serve.

    Args:
        row: A row.
        tasks: Tasks asked for.
        must: Refuse a row that can't serve one of them.

    Raises:
        DataError: with `must`, a row that lacks what a task needs; it names row and field.
    """
    found = []
    for task in tasks:
        missing = missing_for(row, task)
        if must and missing:
            raise DataError(
                f"{row.id}: task {task.name} needs '{missing[0]}'", "add it, or leave that task out of the stage"
            )
        if not missing and (row.tasks is None or task.name in row.tasks):
            found.append(task)
    return found


@torch.no_grad()
def encode_row(row: Row, tasks: Sequence[Task], encoding: Encoding) -> Example:
    """Turn a row's sound into numbers, as far as the tasks need it.

    Args:
        row: A row that can serve the tasks.
        tasks: Tasks that will be built from it.
        encoding: With what, and what is kept.

    Raises:
        DataError: sound that can't be read or is no speech, codes of another codec, an unknown voice; it names the row.
        ConfigError: a spoken question without ears.
    """
    if encoding.speakers and row.speaker is not None and row.speaker not in encoding.speakers:
        raise DataError(
            f"{row.id}: unknown speaker '{row.speaker}'{did_you_mean(row.speaker, list(encoding.speakers))}",
            f"voices: {', '.join(encoding.speakers)}",
        )
    listens, speaks = any(t.speech_in for t in tasks), any(t.audio_out for t in tasks)
    talks = any(t.answer == "answer" for t in tasks)
    try:
        clip = _clip(row.question_audio, row.id, encoding) if listens and row.question_audio is not None else None
        codes = _codes(row, encoding) if speaks else None
        history = tuple(
            PastTurn(
                turn.role,
                turn.text,
                _clip(turn.audio, f"{row.id}, turn {i + 1}", encoding)
                if turn.audio is not None and turn.role == "user" and (listens or turn.text is None)
                else None,
            )
            for i, turn in enumerate(row.history if talks else ())
        )
    except AudioError as error:
        raise DataError(f"{row.id}: {error.message}", error.hint) from None
    return Example(
        id=row.id,
        tasks=tuple(t.name for t in tasks),
        question_text=row.question_text,
        clip=clip,
        answer_text=row.answer_text,
        codes=codes,
        answer_s=0.0 if codes is None or encoding.codec is None else codes.shape[1] / encoding.codec.frame_rate_hz,
        speaker=row.speaker,
        history=history,
    )


def _clip(audio: Audio, name: str, encoding: Encoding) -> Clip:
    encoder = encoding.encoder
    if encoder is None:
        raise ConfigError(
            "this talker has no ears; tasks that begin with A1 need them",
            "attach it with a speech encoder, or leave them out",
        )
    samples = read_wave(audio, encoder.sample_rate_hz)
    check_speech(samples, encoder.sample_rate_hz, sound_name(audio), encoder.max_duration_s)
    if encoding.augment is not None:
        samples = encoding.augment(samples, encoder.sample_rate_hz, name)
    wave = torch.from_numpy(samples)
    features, num_frames = None, 0
    if encoding.keep_features:
        lengths = torch.tensor([len(samples)], device=encoding.device)
        encoded, frames = encoder(wave[None].to(encoding.device), lengths)
        num_frames = int(frames[0])
        features = encoded[0, :num_frames].float().cpu().clone()
    else:
        num_frames = encoder.output_length(len(samples))
    duration_s = len(samples) / encoder.sample_rate_hz
    return Clip(num_frames, duration_s, features, wave if encoding.keep_waves else None)


def _codes(row: Row, encoding: Encoding) -> np.ndarray | None:
    codec = encoding.codec
    if codec is None:
        return None
    if row.answer_codes is not None and row.answer_codes.token_format == codec.token_format:
        return row.answer_codes.codes
    if row.answer_audio is None:
        if row.answer_codes is None:
            return None
        raise DataError(
            f"{row.id}: its answer is only there as codes of '{row.answer_codes.token_format}', but the talker's codec "
            f"is '{codec.token_format}'",
            "attach with that codec (--codec snac), or let `anytalk prepare` voice them anew (`voice:` in data.yaml)",
        )
    wave = torch.from_numpy(read_wave(row.answer_audio, codec.sample_rate_hz)).to(encoding.device)
    codes: np.ndarray = codec.encode(wave[None])[0].cpu().numpy()
    return codes


def _past(example: Example, task: Task) -> Sequence[PastTurn]:
    """Turns before the question; what is only written down or read aloud has none."""
    return example.history if task.answer == "answer" else ()


def make_turns(talker: Talker, example: Example, task: Task) -> list[Turn]:
    """The conversation up to the answer, as the prompt builder wants it."""
    adapter = talker.model.input_adapter

    def columns(clip: Clip | None) -> int:
        return 0 if clip is None or adapter is None else adapter.output_length(clip.num_frames)

    said = example.answer_text if task.answer == "answer" or task.audio_out else example.question_text
    question = example.question_text if task.answer == "answer" else said
    past = [Turn(turn.role, turn.text, columns(turn.clip)) for turn in _past(example, task)]
    return [*past, Turn("user", question, columns(example.clip) if task.speech_in else 0)]


def make_grid(talker: Talker, example: Example, task: Task, learn_pads: bool = False) -> TrainingGrid:
    """The training grid of an example for a task."""
    said = example.answer_text if task.answer == "answer" or task.audio_out else example.question_text
    return talker.prompts.training_grid(
        task,
        make_turns(talker, example, task),
        said or "",
        codes=example.codes,
        pattern=talker.config.grid.delay_pattern(),
        learn_pads=learn_pads,
    )


def without_sound(example: Example) -> Example:
    """The same example without features and waves: enough to lay out its grid."""

    def light(clip: Clip | None) -> Clip | None:
        return None if clip is None else replace(clip, features=None, wave=None)

    past = tuple(replace(turn, clip=light(turn.clip)) for turn in example.history)
    return replace(example, clip=light(example.clip), history=past)


def text_twin(talker: Talker, example: Example) -> TrainingGrid:
    """The same conversation typed, with the answer as text: what a teacher that only reads is asked."""
    typed = [Turn(turn.role, turn.text or "") for turn in example.history]
    turns = [*typed, Turn("user", example.question_text or "")]
    return talker.prompts.training_grid(T1T2, turns, example.answer_text or "")
