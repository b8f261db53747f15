"""Open training data: turn a manifest, a ``data.yaml`` or a prepared folder into feeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from anytalk.data.augment import make_augment
from anytalk.data.config import SourceConfig, read_data_config, read_rows
from anytalk.data.encoding import Rejected, RejectedError, RowEncoder, reason_of
from anytalk.data.examples import Example, Progress, why_too_long
from anytalk.data.feeds import Feed, ListFeed, rows_digest
from anytalk.data.ledger import is_prepared
from anytalk.errors import ConfigError, DataError
from anytalk.grid.tasks import Task, find_task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import BadRow, Row


class TrainingData:
    """Opens a run's rows; rows that aren't prepared are encoded once and kept in memory.

    Args:
        spec: A manifest, a ``data.yaml``, or a folder (or address) that `anytalk prepare` wrote.
        rows: Rows to use instead of `spec`.
        told: Called with the rows that are left out, once the data is open.

    Attributes:
        left_out: Rows that can't be used, with reasons; `anytalk prepare` lists its own in ``rejected.jsonl``.
    """

    def __init__(
        self,
        spec: str | None = None,
        *,
        rows: Sequence[Row] | None = None,
        told: Callable[[Sequence[Rejected]], None] = lambda rows: None,
    ) -> None:
        self._spec, self._rows, self._told = spec, rows, told
        self._feeds: list[Feed] | None = None
        self.left_out: list[Rejected] = []
        self._tasks: set[str] = set()

    def feeds(
        self, talker: Talker, tasks: Sequence[Task], *, waves: bool = False, progress: Progress | None = None
    ) -> list[Feed]:
        """Open feeds for as many of the tasks as the data can serve.

        Args:
            tasks: All tasks that the run will need; asking for more later encodes the rows again.
            waves: Also keep the sound of the questions.
            progress: Called after each encoded row.

        Raises:
            DataError: the data is missing or empty, or none of its rows can be used.
            ConfigError: the data was prepared for another talker, or has to be prepared first.
        """
        names = {task.name for task in tasks}
        if self._feeds is None or not names <= self._tasks:
            self._feeds, self._tasks = self._open(talker, tasks, waves, progress), names
        return self._feeds

    def _open(self, talker: Talker, tasks: Sequence[Task], waves: bool, progress: Progress | None) -> list[Feed]:
        spec = str(self._spec)
        if self._rows is None and is_prepared(spec):
            from anytalk.data.shard_feed import check_fits, open_shards  # its import takes a second

            check_fits(spec, talker, waves=waves)
            return list(open_shards(spec))
        augment, seed = None, 0
        if self._rows is not None:
            rows: Sequence[Row | BadRow] = list(self._rows)
            sources = [(SourceConfig(kind="rows", name="rows", path=""), rows)]
        else:
            config = read_data_config(Path(spec))
            if config.voice is not None:
                raise ConfigError(
                    f"'{spec}' sets `voice:`, but texts have to be read aloud before training",
                    f"type: anytalk prepare {spec} -o shards --talker {talker.folder}, then train with --data shards",
                )
            sources = [(source, list(read_rows(source, talker.registry))) for source in config.sources]
            augment, seed = make_augment(config.augment, config.seed, talker.registry), config.seed
        encoder = RowEncoder(
            encoder=talker.model.encoder,
            codec=talker.codec if any(task.audio_out for task in tasks) else None,
            keep_waves=waves,
            speakers=talker.config.speakers,
            augment=augment,
            seed=seed,
            device=talker.device,
        )
        feeds, self.left_out = _encode(talker, sources, tasks, encoder, progress)
        self._told(self.left_out)
        return feeds


def _encode(
    talker: Talker,
    sources: Sequence[tuple[SourceConfig, Sequence[Row | BadRow]]],
    tasks: Sequence[Task],
    encoder: RowEncoder,
    progress: Progress | None,
) -> tuple[list[Feed], list[Rejected]]:
    total = sum(len(rows) for _, rows in sources)
    if not total:
        raise DataError("the data holds no rows", "add lines to the manifest")
    listens = [task.name for task in tasks if task.speech_in]
    if listens and talker.model.encoder is None:
        raise ConfigError(
            f"this talker has no ears; the tasks {', '.join(listens)} need them",
            "attach it with a speech encoder, or leave them out",
        )
    feeds: list[Feed] = []
    left_out: list[Rejected] = []
    done = 0
    for source, rows in sources:
        wanted = [task for task in tasks if source.tasks is None or task.name in source.tasks]
        examples: list[Example] = []
        for number, row in enumerate(rows):
            try:
                examples.append(_fitting(talker, encoder.example(row, wanted, number, source.filters)))
            except Exception as error:  # one row must not end the run
                left_out.append(Rejected(source.name, number, row.id, *reason_of(error)))
            done += 1
            if progress is not None:
                progress(done, total)
        feeds.append(ListFeed(source.name, examples, source.weight, rows_digest(rows)))
    # A stage may ask for tasks that no row serves; the mixture reports that. All other reasons mean broken data.
    broken = [row for row in left_out if row.kind != "serves no task"]
    if len(left_out) == total and broken:
        raise DataError(f"none of {total} rows can be used; {broken[0].id}: {broken[0].reason}", "fix the data")
    return feeds, left_out


def _fitting(talker: Talker, example: Example) -> Example:
    """Keep the tasks whose grid fits the model's positions; RejectedError if none does."""
    why = {name: why_too_long(talker, example, find_task(name)) for name in example.tasks}
    tasks = tuple(name for name in example.tasks if not why[name])
    if not tasks:
        raise RejectedError("too long for the model", f"{example.id}: {next(iter(why.values()))}")
    return replace(example, tasks=tasks)
