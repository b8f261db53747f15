"""What one worker of `anytalk prepare` does: a block of rows becomes a shard, and a list of the rows left out."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from anytalk.data.config import SourceConfig
from anytalk.data.encoding import Rejected, reason_of, row_encoder
from anytalk.data.ledger import Settings, ShardRecord, shard_file
from anytalk.data.prepare_parts import Senses, load_senses
from anytalk.data.shards import ShardWriter, to_record, turn_clips
from anytalk.errors import DataError
from anytalk.files import write_whole
from anytalk.grid.tasks import Task
from anytalk.plugins.contracts import BadRow, Row
from anytalk.plugins.registry import Registry

MIN_FAILED_ROWS = 8
"""If this many rows in a shard all fail by a bug, skipping rows can't help."""

Tick = Callable[[int, float], None]
"""Told the rows done and the seconds of speech kept since the last call; may raise to stop."""


@dataclass(frozen=True)
class WorkerSetup:
    """What all blocks share; can be sent to another process."""

    out: Path  # the prepared folder
    talker: Path  # the talker folder
    settings: Settings  # what decides what a row becomes
    device: str  # Torch device


@dataclass(frozen=True)
class Block:
    """The rows of one shard."""

    slug: str  # folder of the source
    source: SourceConfig
    tasks: tuple[Task, ...]  # tasks that its rows may serve
    number: int  # number of the shard
    first_row: int  # number of the first row
    rows: tuple[Row | BadRow, ...]  # rows, broken ones too


class Worker:
    """Encoder and codec (`senses`, where they are loaded already), synthesizer and augmentations for many blocks."""

    def __init__(self, setup: WorkerSetup, registry: Registry, senses: Senses | None = None) -> None:
        self.setup = setup
        senses = senses or load_senses(setup.talker, registry, setup.device)
        self._rows = row_encoder(setup.settings, senses, registry, setup.device)

    def process(self, block: Block, tick: Tick) -> ShardRecord:
        """Make a shard; its list of rejected rows is written first.

        Raises:
            AnytalkError: a disk that is full, or a bug that fails every row.
            OSError: other trouble with the disk.
        """
        # Around all rows, so that an encoder under bfloat16 converts its weights once and not for each row.
        with torch.autocast(self.setup.device.partition(":")[0], enabled=False):
            return self._process(block, tick)

    def _process(self, block: Block, tick: Tick) -> ShardRecord:
        began = time.perf_counter()
        settings = self.setup.settings
        path = self.setup.out / shard_file(block.slug, block.number)
        kept: list[tuple[str, str | None, bool]] = []
        left_out: list[Rejected] = []
        question_s = answer_s = 0.0
        rate_hz = 0 if self._rows.encoder is None else self._rows.encoder.sample_rate_hz
        writer = ShardWriter(path, settings.half)
        try:
            for number, row in enumerate(block.rows, start=block.first_row):
                try:
                    example = self._rows.example(row, block.tasks, number, block.source.filters)
                    record = to_record(number, example, rate_hz, settings.half)
                except Exception as error:  # one row must never end a run of hours
                    left_out.append(Rejected(block.source.name, number, row.id, *reason_of(error)))
                    tick(1, 0.0)
                    continue
                writer.add(record)
                heard_s = sum(clip.duration_s for clip in turn_clips(example))
                question_s, answer_s = question_s + heard_s, answer_s + example.answer_s
                kept.append((" ".join(example.tasks), example.speaker, example.codes is not None))
                tick(1, heard_s + example.answer_s)
            _check_not_all_failed(left_out, len(block.rows))
            made = ShardRecord(
                source=block.slug,
                number=block.number,
                first_row=block.first_row,
                rows=len(block.rows),
                kept=len(kept),
                rejected=dict(sorted(Counter(r.kind for r in left_out).items())),
                question_s=question_s,
                answer_s=answer_s,
                voices=dict(sorted(Counter(speaker or "" for _, speaker, speaks in kept if speaks).items())),
                tasks=_runs([tasks for tasks, _, _ in kept]),
            )
            # Written first: a shard without its list would lose the list to a crash in between.
            if left_out:
                write_whole(rejects_file(path), "".join(json.dumps(asdict(r)) + "\n" for r in left_out))
            num_bytes = writer.finish(made.model_dump_json())
        except BaseException:
            writer.abandon()
            raise
        return made.model_copy(update={"num_bytes": num_bytes, "seconds": time.perf_counter() - began})


def rejects_file(shard: Path) -> Path:
    """Return where the rows that a shard left out are listed."""
    return shard.with_suffix(".rejected.jsonl")


def _check_not_all_failed(left_out: Sequence[Rejected], num_rows: int) -> None:
    failed = [r for r in left_out if r.kind == "failed"]
    if len(failed) == num_rows >= MIN_FAILED_ROWS:
        raise DataError(
            f"all {num_rows} rows from {failed[0].id} on failed, the first with: {failed[0].reason}",
            "fix that first: `anytalk doctor`, `anytalk plugins`",
        )


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    runs: list[tuple[str, int]] = []
    for name in names:
        runs[-1:] = [(name, runs[-1][1] + 1)] if runs and runs[-1][0] == name else [*runs[-1:], (name, 1)]
    return runs


class StopWork(Exception):  # noqa: N818 (not an error)
    """Somebody asked for the end; raised by a tick."""
