"""Turn a block of rows into a shard and a list of the rows left out, as one worker of `anytalk prepare`."""

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
"""If all rows of a shard fail by a bug, and they are at least this many, the run stops."""

Tick = Callable[[int, float], None]
"""Called with the rows done and the seconds of speech kept since the last call; may raise :class:`StopWork`."""


@dataclass(frozen=True)
class WorkerSetup:
    """Holds what all blocks share; it is sent to the worker processes."""

    out: Path  # the prepared folder
    talker: Path  # the talker folder
    settings: Settings  # decides how rows are encoded
    device: str  # torch device


@dataclass(frozen=True)
class Block:
    """Holds the rows of one shard."""

    slug: str  # folder of the source
    source: SourceConfig
    tasks: tuple[Task, ...]  # tasks that the rows may serve
    number: int  # number of the shard
    first_row: int  # number of the first row in its source
    rows: tuple[Row | BadRow, ...]  # including bad rows


class Worker:
    """Keeps encoder, codec, synthesizer and augmentations loaded for many blocks; `senses` are those already loaded."""

    def __init__(self, setup: WorkerSetup, registry: Registry, senses: Senses | None = None) -> None:
        self.setup = setup
        senses = senses or load_senses(setup.talker, registry, setup.device)
        self._rows = row_encoder(setup.settings, senses, registry, setup.device)

    def process(self, block: Block, tick: Tick) -> ShardRecord:
        """Write a shard and, before it, the list of its rejected rows.

        Raises:
            AnytalkError: the disk is full, or every row fails by a bug.
            OSError: any other failure of the disk.
        """
        # autocast drops its converted weights when the outermost block ends, so this one spans all rows.
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
                except Exception as error:  # one row must not end a run of hours
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
            # The list comes first: a crash after the shard would lose it, because finished shards aren't made again.
            if left_out:
                write_whole(rejects_file(path), "".join(json.dumps(asdict(r)) + "\n" for r in left_out))
            num_bytes = writer.finish(made.model_dump_json())
        # Also for StopWork and KeyboardInterrupt: no half-written file may stay.
        except BaseException:
            writer.abandon()
            raise
        return made.model_copy(update={"num_bytes": num_bytes, "seconds": time.perf_counter() - began})


def rejects_file(shard: Path) -> Path:
    """Return the path of the list of rows that a shard left out."""
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
    """Stops a worker at its current row; raised by a tick when the parent wants the workers to end."""
