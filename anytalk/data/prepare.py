"""Turn sources into folders of shards; an interrupted run can resume at any moment (`anytalk prepare`).

A shard holds the kept rows of a fixed range of its source, so it depends neither on the number of workers nor on
earlier runs. The file gets its name when it is complete, and then its line is added to the ledger. If a crash comes
between the two, the next start adds the line from the copy that each shard contains.
"""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

import anytalk
from anytalk.data.config import DataConfig, SourceConfig, read_rows
from anytalk.data.ledger import (
    CACHE_FOLDER,
    PREPARED_FILE,
    REJECTED_FILE,
    Ledger,
    LedgerFile,
    Prepared,
    PreparedSource,
    Settings,
    ShardRecord,
    check_shard,
    differences,
    make_slug,
    read_prepared,
    source_digest,
    write_prepared,
)
from anytalk.data.prepare_parts import Senses, load_senses
from anytalk.data.prepare_pool import run_here, run_workers
from anytalk.data.prepare_worker import Block, Worker, WorkerSetup, rejects_file
from anytalk.data.shards import ROWS_PER_GROUP, shard_record
from anytalk.errors import ConfigError, DataError, UnknownNameError
from anytalk.files import written_whole
from anytalk.grid.tasks import TASKS, Task, find_task
from anytalk.plugins.optional import require
from anytalk.plugins.registry import Registry, default_registry

LOCK_FILE = ".lock"


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Sets how rows are prepared."""

    workers: int = 1  # processes; with 1 this process does the work
    features: bool = True  # keep encoder features
    half: bool = False  # store features as float16
    bf16: bool = False  # run the encoder under bfloat16
    sound: bool = False  # keep the questions' sound; without features it is kept anyway
    rows_per_shard: int = 512  # rows of the source per shard
    device: str = "cpu"  # torch device


@dataclass(frozen=True, kw_only=True)
class PrepareWatcher:
    """Holds the functions that are told about progress."""

    # Called for each source, with the number of its rows that earlier runs finished.
    source: Callable[[SourceConfig, int], None] = lambda source, done: None
    # Called with the rows done and the seconds of speech kept since the last call.
    rows: Callable[[int, float], None] = lambda rows, seconds: None
    shard: Callable[[ShardRecord], None] = lambda record: None  # called for each shard


def prepare(
    config: DataConfig,
    out: Path,
    talker: Path,
    options: PrepareOptions,
    *,
    watcher: PrepareWatcher | None = None,
) -> tuple[Prepared, Ledger]:
    """Prepare all sources, or resume where an earlier call stopped.

    Returns:
        The description of the folder, and its shards.

    Raises:
        ConfigError: settings, talker or sources differ from those of earlier runs in this folder, or packages of the
            extra `train` are missing.
        DataError: a source can't be read, the disk is full, or a worker died. Finished shards are kept.
    """
    require("preparing data", "train", "datasets", "pyarrow")
    registry, watcher = default_registry(), watcher or PrepareWatcher()
    try:
        out.mkdir(parents=True, exist_ok=True)
        # An earlier run that failed early leaves only its lock file.
        if any(out.iterdir()) and not (out / PREPARED_FILE).is_file() and not (out / LOCK_FILE).is_file():
            raise ConfigError(f"'{out}' holds other files", "choose a new or empty folder: -o shards")
        with filelock.FileLock(out / LOCK_FILE, timeout=0):
            return _prepare(config, out, talker, options, registry, watcher)
    except filelock.Timeout:
        raise ConfigError(f"another `anytalk prepare` is working in '{out}'", "wait for it, or end it") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise DataError(
            f"the disk is full: {error}" if full else f"'{out}' can't be written: {error}",
            "finished shards are kept; make room and run the same command again"
            if full
            else "is it writable? Then run the same command again",
        ) from None
    except MemoryError:
        raise DataError("memory ran out", "run the same command again with a smaller --rows-per-shard") from None


def _prepare(
    config: DataConfig, out: Path, talker: Path, options: PrepareOptions, registry: Registry, watcher: PrepareWatcher
) -> tuple[Prepared, Ledger]:
    tasks = {source.name: choose_tasks(source) for source in config.sources}
    senses = load_senses(talker, registry, options.device)
    settings = settings_of(config, senses, options)
    prepared = _merge(config, settings, talker, out)
    write_prepared(out, prepared)
    file = LedgerFile(out)
    clear_partial(out)
    adopt(out, prepared, file)
    _write_rejected(out, prepared, file.ledger)
    setup = WorkerSetup(out=out, talker=talker, settings=settings, device=options.device)
    todo = [s for s in prepared.sources if s.slug not in file.ledger.complete]
    for source in todo:
        # Feeds may have been opened while this source was incomplete; their Arrow copy is outdated.
        shutil.rmtree(out / source.slug / CACHE_FOLDER, ignore_errors=True)
    counter: dict[str, int] = {}
    served = {s.slug: _served(tasks[s.config.name], senses) for s in todo}
    blocks = itertools.chain.from_iterable(
        _blocks(source, served[source.slug], file.ledger, settings, registry, watcher, counter) for source in todo
    )
    if options.workers == 1:
        made = run_here(Worker(setup, registry, senses), blocks, watcher.rows)
    else:
        del senses  # the workers load their own; these would only take memory
        made = run_workers(setup, options.workers, blocks, watcher.rows)
    try:
        for record in made:
            file.add(record)
            watcher.shard(record)
            _finish_sources(file, counter)
        _finish_sources(file, counter)
    finally:
        # Closing stops the workers; they may have finished more shards meanwhile.
        made.close()
        adopt(out, prepared, file)
        clear_partial(out)
        _write_rejected(out, prepared, file.ledger)
    return prepared, file.ledger


def _finish_sources(file: LedgerFile, rows_read: dict[str, int]) -> None:
    """Mark the sources that were read to their end and whose shards are all finished."""
    for slug, rows in rows_read.items():
        if slug not in file.ledger.complete and sum(record.rows for record in file.ledger.of(slug)) == rows:
            file.finish(slug, rows)


def _served(tasks: Sequence[Task], senses: Senses) -> tuple[Task, ...]:
    """Return the tasks that the talker can serve: without a speech encoder, those that don't listen."""
    return tuple(task for task in tasks if senses.encoder is not None or not task.speech_in)


def choose_tasks(source: SourceConfig) -> tuple[Task, ...]:
    """Return the tasks that the source names, or all tasks if it names none.

    Raises:
        UnknownNameError: a task that doesn't exist.
    """
    try:
        return tuple(find_task(name) for name in (TASKS if source.tasks is None else source.tasks))
    except UnknownNameError as error:
        raise UnknownNameError(f"source '{source.name}': {error.message}", error.hint) from None


def settings_of(config: DataConfig, senses: Senses, options: PrepareOptions) -> Settings:
    """Collect everything that decides how a row is encoded."""
    return Settings(
        encoder=senses.encoder_info,
        codec=senses.codec_info,
        speakers=list(senses.speakers),
        features=options.features,
        half=options.half and options.features,
        bf16=options.bf16 and options.features,
        sound=options.sound or not options.features,
        rows_per_shard=options.rows_per_shard,
        voice=config.voice,
        augment=config.augment,
        seed=config.seed,
    )


def _merge(config: DataConfig, settings: Settings, talker: Path, out: Path) -> Prepared:
    """Describe the folder with new sources added; ConfigError if anything else changed since earlier runs."""
    before = read_prepared(out) if (out / PREPARED_FILE).is_file() else None
    known = {source.config.name: source for source in before.sources} if before else {}
    changed: list[str] = []
    if before is not None:
        changed += differences(before.settings.model_dump(mode="json"), settings.model_dump(mode="json"))
        names = [source.name for source in config.sources]
        changed += [f"source '{name}' is no longer there" for name in known if name not in names]
    sources: list[PreparedSource] = []
    taken = [source.slug for source in known.values()]
    for source in map(_absolute, config.sources):
        old = known.get(source.name)
        digest = source_digest(source, None if old is None else old.digest)
        if old is not None:
            changed += _source_changes(old, source, digest)
            sources.append(old.model_copy(update={"config": source}))
        else:
            slug = make_slug(source.name, taken)
            taken.append(slug)
            sources.append(PreparedSource(slug=slug, digest=digest, config=source))
    if changed:
        raise ConfigError(
            f"'{out}' was prepared with other settings:\n" + "\n".join(f"  {line}" for line in changed),
            "undo the change, or prepare into a new folder (-o). Weights may change, and sources may be added",
        )
    return Prepared(
        library_version=before.library_version if before else anytalk.__version__,
        talker=str(talker.absolute()),
        rows_per_group=before.rows_per_group if before else ROWS_PER_GROUP,
        settings=settings,
        sources=sources,
    )


def _absolute(source: SourceConfig) -> SourceConfig:
    """Make the path absolute, because the next run may start in another working directory."""
    path = Path(source.path)
    return source.model_copy(update={"path": str(path.absolute())}) if path.exists() else source


def _source_changes(old: PreparedSource, source: SourceConfig, digest: str | None) -> list[str]:
    if digest is not None and old.digest is not None and digest != old.digest:
        return [f"the file of source '{source.name}' was changed since ({source.path})"]
    # A weight doesn't change any row, and a file may move as long as its content is the same.
    skip = {"weight"} | ({"path"} if digest is not None and digest == old.digest else set())
    first, second = (s.model_dump(mode="json", exclude=skip) for s in (old.config, source))
    return differences(first, second, f"source '{source.name}'")


def _blocks(
    source: PreparedSource,
    tasks: Sequence[Task],
    ledger: Ledger,
    settings: Settings,
    registry: Registry,
    watcher: PrepareWatcher,
    rows_read: dict[str, int],
) -> Iterator[Block]:
    """Yield the rows of shards that don't exist yet; at the end, store the number of rows in `rows_read`."""
    watcher.source(source.config, sum(record.rows for record in ledger.of(source.slug)))
    size = settings.rows_per_shard
    rows = read_rows(source.config, registry, strict=False)
    first_row = 0
    for number in itertools.count():
        block = tuple(itertools.islice(rows, size))
        if not block:
            break
        if (source.slug, number) not in ledger.shards:
            yield Block(source.slug, source.config, tuple(tasks), number, first_row, block)
        first_row += len(block)
        if len(block) < size:
            break
    rows_read[source.slug] = first_row


def clear_partial(out: Path) -> None:
    """Delete files that a crash left incomplete."""
    for path in [*out.glob(".*.partial*"), *out.glob("*/.*.partial*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def adopt(out: Path, prepared: Prepared, file: LedgerFile) -> None:
    """Add finished shards to the ledger if a crash came before their line was written.

    Raises:
        DataError: a shard of the ledger that is missing.
    """
    for source in prepared.sources:
        for path in sorted((out / source.slug).glob("*.parquet")):
            if not path.stem.isdigit() or (source.slug, int(path.stem)) in file.ledger.shards:
                continue
            found = shard_record(path)
            # The file has a shard's name but no record of the shard, so it can't be used.
            if found is None:
                path.unlink()
                continue
            record = ShardRecord.model_validate_json(found)
            file.add(record.model_copy(update={"num_bytes": path.stat().st_size}))
        for record in file.ledger.of(source.slug):
            check_shard(out, record)


def _write_rejected(out: Path, prepared: Prepared, ledger: Ledger) -> None:
    """Rewrite ``rejected.jsonl`` from the lists of all shards, so that a crash can't lose or repeat a line."""
    with written_whole(out / REJECTED_FILE) as partial, partial.open("wb") as file:
        for source in prepared.sources:
            for record in ledger.of(source.slug):
                path = rejects_file(out / record.file)
                if path.is_file():
                    file.write(path.read_bytes())
