"""What one worker of `anytalk prepare` does: a block of rows becomes a shard, and a list of the rows left out."""

from __future__ import annotations

import errno
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from anytalk.data.augment import make_augment
from anytalk.data.config import Filters, SourceConfig
from anytalk.data.examples import Encoding, Example, encode_row, tasks_of
from anytalk.data.ledger import Settings, ShardRecord, shard_file
from anytalk.data.prepare_parts import Senses, load_senses
from anytalk.data.shards import ShardWriter, to_record, turn_clips
from anytalk.data.voicing import make_voicing, voice_row, without_foreign_codes
from anytalk.errors import AnytalkError, AudioError, DataError
from anytalk.files import write_whole
from anytalk.grid.audio import read_wave, sound_name
from anytalk.grid.tasks import Task
from anytalk.plugins.contracts import Audio, BadRow, Row, Sound
from anytalk.plugins.registry import Registry

MIN_FAILED_ROWS = 8
"""So many rows in a shard, and all of them failed by a bug: then something is broken that skipping won't mend."""

Tick = Callable[[int, float], None]
"""Told the rows done and the seconds of speech kept since the last call; may raise to stop."""


@dataclass(frozen=True)
class Job:
    """What all blocks share; can be sent to another process.

    Attributes:
        out: The prepared folder.
        talker: The talker folder.
        settings: What decides what a row becomes.
        device: Torch device.
    """

    out: Path
    talker: Path
    settings: Settings
    device: str


@dataclass(frozen=True)
class Block:
    """The rows of one shard.

    Attributes:
        slug: Folder of the source.
        source: The source.
        tasks: Tasks that its rows may serve.
        number: Number of the shard.
        first_row: Number of the first row.
        rows: Rows, broken ones too.
    """

    slug: str
    source: SourceConfig
    tasks: tuple[Task, ...]
    number: int
    first_row: int
    rows: tuple[Row | BadRow, ...]


class RejectedError(Exception):
    """A row that is left out: a short kind of reason to count by, and the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason


class Worker:
    """Encoder, codec, synthesizer and augmentations, loaded once for many blocks.

    Args:
        job: What all blocks share.
        registry: Where parts are found.
        senses: Encoder and codec, where they are loaded already.
    """

    def __init__(self, job: Job, registry: Registry, senses: Senses | None = None) -> None:
        settings = job.settings
        self.job = job
        self.senses = senses = senses or load_senses(job.talker, registry, job.device)
        self._voicing = None if settings.voice is None else make_voicing(settings.voice, registry, senses.speakers)
        self._encoding = Encoding(
            encoder=senses.encoder,
            codec=senses.codec,
            keep_features=settings.features,
            keep_waves=settings.sound,
            speakers=senses.speakers,
            augment=make_augment(settings.augment, settings.seed, registry),
            device=job.device,
        )

    def process(self, block: Block, tick: Tick) -> ShardRecord:
        """Make a shard; its list of rejected rows stands beside it before it does.

        Raises:
            AnytalkError: a disk that is full, or a bug that fails every row.
            OSError: other trouble with the disk.
        """
        began = time.perf_counter()
        settings = self.job.settings
        path = self.job.out / shard_file(block.slug, block.number)
        kept: list[tuple[str, str | None, bool]] = []
        rejected: list[dict[str, object]] = []
        question_s = answer_s = 0.0
        writer = ShardWriter(path, settings.half)
        try:
            for number, row in enumerate(block.rows, start=block.first_row):
                try:
                    example = self.example(row, number, block)
                    rate_hz = 0 if self.senses.encoder is None else self.senses.encoder.sample_rate_hz
                    record = to_record(number, example, rate_hz, settings.half)
                except Exception as error:  # one row must never end a run of hours
                    _raise_if_fatal(error)
                    kind, reason = _reason(error)
                    rejected.append(
                        {"source": block.source.name, "row": number, "id": row.id, "kind": kind, "reason": reason}
                    )
                    tick(1, 0.0)
                    continue
                writer.add(record)
                heard_s = sum(clip.duration_s for clip in turn_clips(example))
                question_s, answer_s = question_s + heard_s, answer_s + example.answer_s
                kept.append((" ".join(example.tasks), example.speaker, example.codes is not None))
                tick(1, heard_s + example.answer_s)
            _check_not_all_failed(rejected, len(block.rows))
            made = ShardRecord(
                source=block.slug,
                number=block.number,
                first_row=block.first_row,
                rows=len(block.rows),
                kept=len(kept),
                rejected=dict(sorted(Counter(str(r["kind"]) for r in rejected).items())),
                question_s=question_s,
                answer_s=answer_s,
                voices=dict(sorted(Counter(speaker or "" for _, speaker, speaks in kept if speaks).items())),
                tasks=_runs([tasks for tasks, _, _ in kept]),
            )
            # Written first: a shard that stands without its list would lose the list to a crash in between.
            if rejected:
                write_whole(rejects_file(path), "".join(json.dumps(r) + "\n" for r in rejected))
            num_bytes = writer.finish(made.model_dump_json())
        except BaseException:
            writer.abandon()
            raise
        return made.model_copy(update={"num_bytes": num_bytes, "seconds": time.perf_counter() - began})

    def example(self, row: Row | BadRow, number: int, block: Block) -> Example:
        """What becomes of one row.

        Raises:
            RejectedError: it is left out, and why.
            DataError: sound or codes that can't be used.
        """
        if isinstance(row, BadRow):
            raise RejectedError("broken row", row.reason)
        _check_chars(row, block.source.filters)
        # A plugin that draws from the global generators must not make a row depend on who else the worker had.
        torch.manual_seed(self.job.settings.seed + number)
        np.random.seed((self.job.settings.seed + number) % 2**32)
        allowed = [task for task in block.tasks if row.tasks is None or task.name in row.tasks]
        given, row = row, without_foreign_codes(row, self.senses.codec.token_format)
        if self._voicing is not None:
            try:
                row = voice_row(row, number, allowed, self._voicing)
            except AudioError as error:
                raise RejectedError("can't be voiced", error.message) from None
        tasks = tasks_of(row, allowed)
        if not tasks:
            raise RejectedError("serves no task", _why_no_task(given, row, block))
        try:
            row = self._loaded(row, tasks, block.source.filters)
        except AudioError as error:
            raise RejectedError("unreadable sound", error.message) from None
        return encode_row(row, tasks, self._encoding)

    def _loaded(self, row: Row, tasks: Sequence[Task], filters: Filters) -> Row:
        """The row with its sound read (once), as long as the filters want it."""
        encoder, codec = self.senses.encoder, self.senses.codec
        if encoder is not None and row.question_audio is not None and any(t.speech_in for t in tasks):
            sound, length_s = _read(row.question_audio, encoder.sample_rate_hz)
            _check_limit("question", length_s, filters.min_question_s, filters.max_question_s)
            row = replace(row, question_audio=sound)
        if not any(t.audio_out for t in tasks):
            return row
        length_s = 0.0
        if row.answer_codes is not None:
            codes = row.answer_codes.codes
            _check_codes(codes, codec.num_streams, codec.codebook_size, row.id)
            length_s = codes.shape[1] / codec.frame_rate_hz
        elif row.answer_audio is not None:
            sound, length_s = _read(row.answer_audio, codec.sample_rate_hz)
            row = replace(row, answer_audio=sound)
        _check_limit("answer", length_s, filters.min_answer_s, filters.max_answer_s)
        return row


def rejects_file(shard: Path) -> Path:
    """Where the rows stand that a shard left out."""
    return shard.with_suffix(".rejected.jsonl")


def _read(audio: Audio, sample_rate_hz: int) -> tuple[Sound, float]:
    wave = read_wave(audio, sample_rate_hz)
    return Sound(name=sound_name(audio), samples=wave, sample_rate_hz=sample_rate_hz), len(wave) / sample_rate_hz


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


def _why_no_task(given: Row, row: Row, block: Block) -> str:
    if given.tasks is not None and not set(given.tasks) & {task.name for task in block.tasks}:
        return f"it is meant for {', '.join(given.tasks)}, which the source or the talker doesn't serve"
    if given.answer_codes is not None and row.answer_codes is None:
        return f"its answer is only there as codes of '{given.answer_codes.token_format}' and nobody voices it anew"
    has = [n for n in ("question_text", "question_audio", "answer_text", "answer_audio") if getattr(row, n) is not None]
    return f"it has only {', '.join(has) or 'nothing'}"


def _reason(error: Exception) -> tuple[str, str]:
    if isinstance(error, RejectedError):
        return error.kind, error.reason
    if isinstance(error, AnytalkError):
        return "unusable", error.message
    return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _raise_if_fatal(error: Exception) -> None:
    """What more rows can't survive either."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in full):
        raise error


def _check_not_all_failed(rejected: Sequence[dict[str, object]], num_rows: int) -> None:
    failed = [r for r in rejected if r["kind"] == "failed"]
    if len(failed) == num_rows >= MIN_FAILED_ROWS:
        raise DataError(
            f"all {num_rows} rows from {failed[0]['id']} on failed, the first with: {failed[0]['reason']}",
            "mend that first: `anytalk doctor`, `anytalk plugins`",
        )


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    runs: list[tuple[str, int]] = []
    for name in names:
        runs[-1:] = [(name, runs[-1][1] + 1)] if runs and runs[-1][0] == name else [*runs[-1:], (name, 1)]
    return runs


class StopWork(Exception):  # noqa: N818 (not an error)
    """Somebody asked for the end; raised by a tick."""
