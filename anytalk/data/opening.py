"""Opening training data: a manifest, a ``data.yaml`` or a prepared folder becomes feeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anytalk.data.config import Filters, SourceConfig, read_data_config, read_rows
from anytalk.data.examples import Augment, Encoding, Example, Progress, encode_row, tasks_of
from anytalk.data.feeds import Feed, ListFeed
from anytalk.data.ledger import is_prepared
from anytalk.errors import ConfigError, DataError
from anytalk.grid.tasks import Task
from anytalk.model.talker import Talker
from anytalk.plugins.components import PartRef
from anytalk.plugins.contracts import Row


class TrainingData:
    """Where a run's rows come from. Rows that were not prepared are encoded once and kept in memory.

    Args:
        spec: A manifest, a ``data.yaml``, or a folder (or address) that `anytalk prepare` wrote.
        rows: Rows at hand, instead of `spec`.
    """

    def __init__(self, spec: str | None = None, *, rows: Sequence[Row] | None = None) -> None:
        self._spec, self._rows = spec, rows
        self._feeds: list[Feed] | None = None
        self._tasks: set[str] = set()

    def feeds(
        self, talker: Talker, tasks: Sequence[Task], *, waves: bool = False, progress: Progress | None = None
    ) -> list[Feed]:
        """Feeds that serve the tasks, as far as the data can.

        Args:
            talker: Who learns: its encoder and codec turn sound into numbers.
            tasks: Every task that the run will ask for; asking for more later means encoding again.
            waves: Keep the sound of the questions too.
            progress: Told after each row that was encoded.

        Raises:
            DataError: data that is missing, empty or wrong; it names source and row.
            ConfigError: data that was prepared for another talker, or that has to be prepared first.
        """
        names = {task.name for task in tasks}
        if self._feeds is None or not names <= self._tasks:
            self._feeds, self._tasks = self._open(talker, tasks, waves, progress), names
        return self._feeds

    def _open(self, talker: Talker, tasks: Sequence[Task], waves: bool, progress: Progress | None) -> list[Feed]:
        if self._rows is not None:
            return _encode(
                talker, [("rows", 1.0, list(self._rows), tasks, True, Filters())], tasks, waves, (), 0, progress
            )
        spec = str(self._spec)
        if is_prepared(spec):
            from anytalk.data.shard_feed import check_fits, open_shards  # takes a second to import

            check_fits(spec, talker, waves=waves)
            return list(open_shards(spec))
        config = read_data_config(Path(spec))
        if config.voice is not None:
            raise ConfigError(
                f"'{spec}' asks for a voice, and reading aloud is done before training",
                f"type: anytalk prepare {spec} -o shards --talker {talker.folder}, then train with --data shards",
            )
        alone = Path(spec).suffix not in (".yaml", ".yml")
        sources = [_read(source, talker, tasks, alone) for source in config.sources]
        return _encode(talker, sources, tasks, waves, config.augment, config.seed, progress)


_Source = tuple[str, float, list[Row], Sequence[Task], bool, Filters]
"""Name, weight, rows, tasks it is used for, whether every row must serve all of them, and limits of length."""


def _read(source: SourceConfig, talker: Talker, tasks: Sequence[Task], alone: bool) -> _Source:
    rows = [row for row in read_rows(source, talker.registry, strict=True) if isinstance(row, Row)]
    wanted = [task for task in tasks if source.tasks is None or task.name in source.tasks]
    return source.name, source.weight, rows, wanted, alone or source.tasks is not None, source.filters


def _encode(
    talker: Talker,
    sources: Sequence[_Source],
    tasks: Sequence[Task],
    waves: bool,
    augment: Sequence[PartRef],
    seed: int,
    progress: Progress | None,
) -> list[Feed]:
    total = sum(len(source[2]) for source in sources)
    if not total:
        raise DataError("the data holds no rows", "add lines to the manifest")
    listens = [task.name for task in tasks if task.speech_in]
    if listens and talker.model.encoder is None:
        raise ConfigError(
            f"this talker has no ears; the tasks {', '.join(listens)} need them",
            "attach it with a speech encoder, or leave them out",
        )
    encoding = Encoding(
        encoder=talker.model.encoder,
        codec=talker.codec if any(task.audio_out for task in tasks) else None,
        keep_waves=waves,
        speakers=talker.config.speakers,
        augment=_augment(augment, seed, talker),
        device=talker.device,
    )
    feeds: list[Feed] = []
    done = 0
    for name, weight, rows, wanted, must, filters in sources:
        examples: list[Example] = []
        for row in rows:
            served = tasks_of(row, wanted, must=must)
            if served:
                example = encode_row(row, served, encoding)
                if is_within(filters, example):
                    examples.append(example)
            done += 1
            if progress is not None:
                progress(done, total)
        feeds.append(ListFeed(name, examples, weight))
    return feeds


def _augment(refs: Sequence[PartRef], seed: int, talker: Talker) -> Augment | None:
    if not refs:
        return None
    from anytalk.data.augment import make_augment

    return make_augment(list(refs), seed, talker.registry)


def is_within(filters: Filters, example: Example) -> bool:
    """Whether an example's lengths are within the limits. `anytalk prepare` also lists what was left out, and why."""
    question_s = None if example.clip is None else example.clip.duration_s
    answer_s = None if example.codes is None else example.answer_s
    limits: tuple[tuple[float | None, float | None, float | None], ...] = (
        (question_s, filters.min_question_s, filters.max_question_s),
        (answer_s, filters.min_answer_s, filters.max_answer_s),
        (len(example.question_text or ""), None, filters.max_question_chars),
        (len(example.answer_text or ""), None, filters.max_answer_chars),
    )
    return all(
        value is None or ((least is None or value >= least) and (most is None or value <= most))
        for value, least, most in limits
    )
