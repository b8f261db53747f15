"""Encode rows: read missing sound aloud, check the row, and turn sound into features and codes.

`anytalk prepare`, its preview, and training from a manifest all use :class:`RowEncoder`.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from anytalk.data.augment import Augment, make_augment
from anytalk.data.checks import check_row
from anytalk.data.config import Filters
from anytalk.data.examples import Clip, Example, PastTurn
from anytalk.data.ledger import Settings
from anytalk.data.prepare_parts import Senses
from anytalk.data.voicing import Voicing, make_voicing, voice_row
from anytalk.errors import AnytalkError, AudioError, ConfigError, DataError, did_you_mean
from anytalk.grid.audio import check_said, check_speech, read_wave, sound_name
from anytalk.grid.tasks import Task
from anytalk.plugins.contracts import Audio, BadRow, Codec, Row, SpeechEncoder
from anytalk.plugins.registry import Registry

T = TypeVar("T")

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)  # every later row would fail as well


@dataclass(frozen=True)
class Rejected:
    """Describes a row that is left out."""

    source: str  # name of its source
    row: int  # its number there
    id: str  # its name in messages
    kind: str  # short reason, by which rows are counted
    reason: str


class RejectedError(Exception):
    """Signals that a row is left out, with a short kind of reason for counting and the reason as a sentence."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason


def reason_of(error: Exception) -> tuple[str, str]:
    """Return why a row is left out: a short kind of reason for counting, and a sentence.

    Raises:
        OSError: the disk is full; every later row would fail as well.
    """
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        raise error
    if isinstance(error, RejectedError):
        return error.kind, error.reason
    if isinstance(error, AnytalkError):
        return "unusable", error.message
    return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def without_foreign_codes(row: Row, token_format: str) -> Row:
    """Return the row without answer codes of another codec, which this talker's codec can't decode."""
    if row.answer_codes is None or row.answer_codes.token_format == token_format:
        return row
    return replace(row, answer_codes=None)


def missing_for(row: Row, task: Task) -> list[str]:
    """Return the fields that the row lacks for a task; empty if it can serve the task."""
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


def tasks_of(row: Row, tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks that the row allows and has all fields for."""
    return [task for task in tasks if (row.tasks is None or task.name in row.tasks) and not missing_for(row, task)]


@dataclass(frozen=True, kw_only=True)
class RowEncoder:
    """Turns rows into examples."""

    encoder: SpeechEncoder | None  # None if no task listens
    codec: Codec | None  # None if no task speaks
    keep_features: bool = True  # keep the encoder's features of spoken questions
    bf16: bool = False  # run the encoder under bfloat16
    keep_waves: bool = False  # keep the questions' sound, for stages that run the encoder
    speakers: Sequence[str] = ()  # voices that the talker has an embedding for; empty accepts any voice
    augment: Augment | None = None  # changes the sound of questions before they are encoded
    voicing: Voicing | None = None  # reads texts aloud if a row has no sound
    seed: int = 0  # added to the row's number to seed the global generators
    device: str = "cpu"  # Torch device of encoder and codec

    @torch.no_grad()
    def example(
        self, row: Row | BadRow, tasks: Sequence[Task], number: int = 0, filters: Filters | None = None
    ) -> Example:
        """Encode one row.

        Raises:
            RejectedError: the row is left out.
            DataError: sound, codes or a voice that can't be used.
            ConfigError: a spoken question for a talker without a speech encoder.
        """
        if isinstance(row, BadRow):
            raise RejectedError("broken row", row.reason)
        filters = filters or Filters()
        check_row(row)
        _check_chars(row, filters)
        # Plugins may draw from the global generators; a row must not depend on the rows before it.
        with _seeded(self.seed + number):
            given = row
            if self.codec is not None and row.answer_codes is not None:
                row = without_foreign_codes(row, self.codec.token_format)
            allowed = [task for task in tasks if row.tasks is None or task.name in row.tasks]
            if self.voicing is not None:
                try:
                    row = voice_row(row, number, allowed, self.voicing)
                except AudioError as error:
                    raise RejectedError("can't be voiced", error.message) from None
            served = tasks_of(row, allowed)
            if not served:
                raise RejectedError("serves no task", _why_no_task(given, row, tasks))
            return self._encoded(row, served, filters)

    def _encoded(self, row: Row, tasks: Sequence[Task], filters: Filters) -> Example:
        listens, speaks = any(t.speech_in for t in tasks), any(t.audio_out for t in tasks)
        talks = any(t.answer == "answer" for t in tasks)
        try:
            # Read and check all sound before encoding any of it, because encoding takes the time.
            question = self._read_question(row, filters) if listens else None
            answer = self._read_answer(row, filters) if speaks else None
        except AudioError as error:
            raise RejectedError("unreadable sound", error.message) from None
        if self.speakers and row.speaker is not None and row.speaker not in self.speakers:
            raise DataError(
                f"{row.id}: unknown speaker '{row.speaker}'{did_you_mean(row.speaker, list(self.speakers))}",
                f"voices: {', '.join(self.speakers)}",
            )
        try:
            clip = None
            if question is not None and row.question_audio is not None:
                clip = self._clip(question, sound_name(row.question_audio), row.id)
            codes = answer if answer is None or answer.ndim == 2 else self._codes(answer)
            # Past sound is encoded if a task listens, or if the turn has no text to show instead.
            history = tuple(
                PastTurn(
                    turn.role,
                    turn.text,
                    self._past_clip(turn.audio, f"{row.id}, turn {i + 1}")
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
            answer_s=0.0 if codes is None else codes.shape[1] / _there(self.codec).frame_rate_hz,
            speaker=row.speaker,
            history=history,
        )

    def _ears(self) -> SpeechEncoder:
        if self.encoder is None:
            raise ConfigError(
                "this talker has no ears; tasks that begin with A1 need them",
                "attach it with a speech encoder, or leave them out",
            )
        return self.encoder

    def _read_question(self, row: Row, filters: Filters) -> np.ndarray | None:
        """Read the question at the encoder's rate, (N,) float32, and check its length."""
        if row.question_audio is None:
            return None
        rate_hz = self._ears().sample_rate_hz
        wave = read_wave(row.question_audio, rate_hz)
        _check_limit("question", len(wave) / rate_hz, filters.min_question_s, filters.max_question_s)
        return wave

    def _read_answer(self, row: Row, filters: Filters) -> np.ndarray | None:
        """Read the answer as samples (N,) at the codec's rate or as codes (K,T), and check its length."""
        codec = _there(self.codec)
        found: np.ndarray | None = None
        if row.answer_codes is not None:
            found = row.answer_codes.codes
            _check_codes(found, codec.num_streams, codec.codebook_size, row.id)
            length_s = found.shape[1] / codec.frame_rate_hz
        elif row.answer_audio is not None:
            found = read_wave(row.answer_audio, codec.sample_rate_hz)
            length_s = len(found) / codec.sample_rate_hz
        else:
            return None
        _check_limit("answer", length_s, filters.min_answer_s, filters.max_answer_s)
        try:
            check_said(found if found.ndim == 1 else None, length_s, row.answer_text or "", f"{row.id}, answer")
        except AudioError as error:
            raise RejectedError("not its text", error.message) from None
        return found

    def _past_clip(self, audio: Audio, name: str) -> Clip:
        return self._clip(read_wave(audio, self._ears().sample_rate_hz), sound_name(audio), name)

    def _clip(self, samples: np.ndarray, sound: str, name: str) -> Clip:
        encoder = self._ears()
        check_speech(samples, encoder.sample_rate_hz, sound, encoder.max_duration_s)
        if self.augment is not None:
            samples = self.augment(samples, encoder.sample_rate_hz, name)
        wave = torch.from_numpy(samples)
        features, num_frames = None, 0
        if self.keep_features:
            lengths = torch.tensor([len(samples)], device=self.device)
            # autocast takes the type of the device without its number.
            with torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.bf16):
                encoded, frames = encoder(wave[None].to(self.device), lengths)
            num_frames = int(frames[0])
            # A copy, because a slice would keep the whole output in memory.
            features = encoded[0, :num_frames].float().cpu().clone()
        else:
            num_frames = encoder.output_length(len(samples))
        duration_s = len(samples) / encoder.sample_rate_hz
        return Clip(num_frames, duration_s, features, wave if self.keep_waves else None)

    def _codes(self, samples: np.ndarray) -> np.ndarray:
        wave = torch.from_numpy(samples).to(self.device)
        codes: np.ndarray = _there(self.codec).encode(wave[None])[0].cpu().numpy()
        return codes


def row_encoder(settings: Settings, senses: Senses, registry: Registry, device: str = "cpu") -> RowEncoder:
    """Build the encoder of rows for these settings; `anytalk prepare` and its preview share it.

    Raises:
        AnytalkError: a voice or an augmentation that can't be built.
    """
    return RowEncoder(
        encoder=senses.encoder,
        codec=senses.codec,
        keep_features=settings.features,
        bf16=settings.bf16,
        keep_waves=settings.sound,
        speakers=senses.speakers,
        augment=make_augment(settings.augment, settings.seed, registry),
        voicing=None if settings.voice is None else make_voicing(settings.voice, registry, senses.speakers),
        seed=settings.seed,
        device=device,
    )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators for one row, and restore their states afterwards."""
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()
    # torch.manual_seed formats the stack for each missing kind of device, which takes half the time of a short row.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)


def _there(value: T | None) -> T:
    assert value is not None
    return value


def _check_limit(what: str, length_s: float, least_s: float | None, most_s: float | None) -> None:
    if least_s is not None and length_s < least_s:
        raise RejectedError(f"{what} too short", f"the {what} lasts {length_s:.2f} s; min_{what}_s is {least_s:g}")
    if most_s is not None and length_s > most_s:
        raise RejectedError(f"{what} too long", f"the {what} lasts {length_s:.2f} s; max_{what}_s is {most_s:g}")


def _check_chars(row: Row, filters: Filters) -> None:
    texts = (("question", row.question_text, filters.max_question_chars),)
    for what, text, most in (*texts, ("answer", row.answer_text, filters.max_answer_chars)):
        if text is not None and most is not None and len(text) > most:
            raise RejectedError(
                f"{what} text too long", f"the {what} has {len(text)} characters; max_{what}_chars is {most}"
            )


def _check_codes(codes: np.ndarray, num_streams: int, codebook_size: int, name: str) -> None:
    fits = codes.ndim == 2 and codes.shape[0] == num_streams and codes.shape[1] > 0
    if not fits or codes.min() < 0 or codes.max() >= codebook_size:
        raise DataError(
            f"{name}: its codes have the shape {codes.shape} or are out of range; ({num_streams}, frames) below "
            f"{codebook_size} are expected",
            "encode them again",
        )


def _why_no_task(given: Row, row: Row, tasks: Sequence[Task]) -> str:
    if given.tasks is not None and not set(given.tasks) & {task.name for task in tasks}:
        return f"its tasks are {', '.join(given.tasks)}, which the source or the talker doesn't serve"
    if given.answer_codes is not None and row.answer_codes is None:
        codes = given.answer_codes.token_format
        return f"its answer is there only as codes of '{codes}', and no `voice:` reads it aloud again"
    if len(tasks) == 1:
        return f"task {tasks[0].name} needs '{missing_for(row, tasks[0])[0]}'"
    has = [n for n in ("question_text", "question_audio", "answer_text", "answer_audio") if getattr(row, n) is not None]
    return f"it has only {', '.join(has) or 'nothing'}"
