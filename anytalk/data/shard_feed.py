"""Read prepared folders as feeds: local ones are mapped into memory, remote ones are fetched by row groups."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from anytalk.data.examples import Example
from anytalk.data.feeds import Feed
from anytalk.data.ledger import (
    CACHE_FOLDER,
    Ledger,
    Prepared,
    PreparedSource,
    ShardRecord,
    check_shard,
    differences,
    is_prepared,
    is_remote,
    open_address,
    read_ledger,
    read_prepared,
)
from anytalk.data.prepare_parts import codec_info, senses_of
from anytalk.data.shards import columns_of, features, to_example
from anytalk.errors import ConfigError, DataError
from anytalk.model.talker import Talker

GROUPS_PER_BLOCK = 8
"""For a remote folder, rows are shuffled among this many row groups."""

CACHED_GROUPS = 48
"""Row groups that a remote feed keeps in memory: one block for each of the six tasks."""

T = TypeVar("T")


class Rows(Protocol):
    """Reads the rows of a source by index."""

    def row(self, index: int, light: bool) -> Any:
        """Return a ``pyarrow.Table`` with one row; `light` leaves out features and sound."""


class MappedRows:
    """Reads rows of local shards from memory-mapped files; ``datasets`` keeps an Arrow copy of them in `cache`.

    Args:
        columns: Columns to read: all light ones, and those heavy ones that are wanted.
    """

    def __init__(self, files: Sequence[Path], cache: Path, half: bool, columns: Sequence[str]) -> None:
        import datasets

        with _quiet_datasets():
            table = datasets.Dataset.from_parquet(
                [str(file) for file in files], cache_dir=str(cache), features=features(half)
            )
        light = columns_of(with_features=False, with_sound=False)
        self._whole = table.select_columns(list(columns)).with_format("arrow")
        self._light = table.select_columns(light).with_format("arrow")

    def row(self, index: int, light: bool) -> Any:
        return (self._light if light else self._whole)[index : index + 1]


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


class _Cache:
    """Keeps the most recently used values, by key."""

    def __init__(self, size: int) -> None:
        self._size, self._held = size, OrderedDict[Any, Any]()

    def peek(self, key: Any) -> Any:
        return self._held.get(key)

    def get(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._held:
            self._held[key] = make()
            if len(self._held) > self._size:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        found: T = self._held[key]
        return found


class StreamedRows:
    """Reads rows of shards at an address and fetches only the row groups that it needs.

    Attributes:
        groups_read: How many row groups were fetched with features and sound.
        outlines_read: How many row groups were fetched without them.
    """

    def __init__(self, spec: str, records: Sequence[ShardRecord], rows_per_group: int, columns: Sequence[str]) -> None:
        self._fs, self._root = open_address(spec)
        self._files = [record.file for record in records]
        self._starts = np.cumsum([0, *(record.kept for record in records)])
        self._rows_per_group = rows_per_group
        self._columns = {False: list(columns), True: columns_of(with_features=False, with_sound=False)}
        self._opened, self._groups, self._outlines = _Cache(CACHED_GROUPS), _Cache(CACHED_GROUPS), _Cache(CACHED_GROUPS)
        self._lock = threading.Lock()
        self.groups_read = self.outlines_read = 0

    def row(self, index: int, light: bool) -> Any:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        group, place = divmod(index - int(self._starts[shard]), self._rows_per_group)
        with self._lock:
            # A row group that is held completely also serves outlines.
            held = self._groups.peek((shard, group)) if light else None
            if held is None:
                cache = self._outlines if light else self._groups
                held = cache.get((shard, group), lambda: self._read(shard, group, light))
        return held.slice(place, 1)

    def _read(self, shard: int, group: int, light: bool) -> Any:
        self.outlines_read += light
        self.groups_read += not light
        try:
            file = self._opened.get(shard, lambda: self._open(self._files[shard]))
            return file.read_row_group(group, columns=self._columns[light])
        except Exception as error:  # each filesystem has its own errors
            raise DataError(
                f"shard '{self._files[shard]}' can't be read: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}",
                "check the address, the network and the credentials",
            ) from None

    def _open(self, name: str) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self._fs.open(f"{self._root}/{name}", "rb"), pre_buffer=True)


class ShardFeed(Feed):
    """Gives the examples of one prepared source; indices count its rows over all shards.

    Args:
        width: E.
        rows_per_group: Set for remote folders, for which :meth:`order` keeps neighbours together; otherwise None.
    """

    def __init__(
        self,
        source: PreparedSource,
        records: Sequence[ShardRecord],
        width: int,
        rows: Rows,
        rows_per_group: int | None = None,
    ) -> None:
        self.name, self.weight = source.config.name, source.config.weight
        self.records = list(records)
        self._source_digest = source.digest or ""
        self.rows = rows
        self._width, self._rows_per_group = width, rows_per_group
        self._indices: dict[str, np.ndarray] = {}
        runs = [run for record in records for run in record.tasks]
        self._run_tasks = [frozenset(names.split()) for names, _ in runs]
        self._run_lengths = np.array([length for _, length in runs], dtype=np.int64)

    def digest(self) -> str:
        """Return a digest of the ledger's lines without the time that each shard took."""
        lines = [record.model_dump_json(exclude={"seconds"}) for record in self.records]
        return hashlib.sha256("\n".join([self._source_digest, *lines]).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._run_lengths.sum())

    def indices(self, task: str) -> np.ndarray:
        if task not in self._indices:
            serves = np.array([task in names for names in self._run_tasks], dtype=bool)
            self._indices[task] = np.flatnonzero(np.repeat(serves, self._run_lengths)).astype(np.int64)
        return self._indices[task]

    def example(self, index: int) -> Example:
        return to_example(self.rows.row(self._checked(index), light=False), self._width)

    def outline(self, index: int) -> Example:
        """Return an example without features and sound, whose columns aren't read."""
        return to_example(self.rows.row(self._checked(index), light=True), self._width)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return int(index)

    def order(self, task: str, epoch: int, seed: int) -> np.ndarray:
        """Return the order of an epoch; remote feeds shuffle shards, blocks of row groups, and rows within a block."""
        if self._rows_per_group is None:
            return super().order(task, epoch, seed)
        indices = self.indices(task)
        random = np.random.default_rng((seed, epoch))
        starts = np.cumsum([0, *(record.kept for record in self.records)])
        blocks: list[np.ndarray] = []
        step = self._rows_per_group * GROUPS_PER_BLOCK
        for shard in random.permutation(len(self.records)).tolist():
            firsts = range(int(starts[shard]), int(starts[shard + 1]), step)
            for place in random.permutation(len(firsts)).tolist():
                first, last = firsts[place], min(firsts[place] + step, int(starts[shard + 1]))
                low, high = np.searchsorted(indices, (first, last))
                blocks.append(indices[low:high][random.permutation(high - low)])
        return np.concatenate(blocks) if blocks else indices


def open_shards(
    spec: str | Path, *, with_features: bool = True, with_sound: bool = True, allow_partial: bool = False
) -> list[ShardFeed]:
    """Open a prepared folder or address as one feed for each source that has rows.

    Args:
        spec: A folder, or an address that fsspec opens (``s3://...``, ``hf://...``).
        with_features: Read encoder features if they were kept.
        with_sound: Read sound if it was kept.
        allow_partial: Also open a folder that isn't finished.

    Raises:
        DataError: nothing is prepared there, it isn't finished, or a shard is missing.
    """
    where = str(spec)
    prepared, ledger = read_prepared(where), read_ledger(where)
    waiting = [source.config.name for source in prepared.sources if source.slug not in ledger.complete]
    if waiting and not allow_partial:
        raise DataError(
            f"'{where}' isn't finished: {', '.join(waiting)}", "run the same `anytalk prepare` again to continue it"
        )
    columns = columns_of(with_features=with_features, with_sound=with_sound)
    return [
        _open_source(where, prepared, source, ledger, columns)
        for source in prepared.sources
        if any(record.kept for record in ledger.of(source.slug))
    ]


def _open_source(
    where: str, prepared: Prepared, source: PreparedSource, ledger: Ledger, columns: Sequence[str]
) -> ShardFeed:
    records = [record for record in ledger.of(source.slug) if record.kept]
    settings = prepared.settings
    width = 0 if settings.encoder is None else settings.encoder.width
    if is_remote(where):
        rows = StreamedRows(where, records, prepared.rows_per_group, columns)
        return ShardFeed(source, records, width, rows, prepared.rows_per_group)
    folder = Path(where).absolute()
    files = [check_shard(folder, record) for record in records]
    if not os.access(folder / source.slug, os.W_OK):
        # The Arrow copy can't be written here, so stream the parquet files as if they were remote.
        streamed = StreamedRows(f"file://{folder}", records, prepared.rows_per_group, columns)
        return ShardFeed(source, records, width, streamed, prepared.rows_per_group)
    mapped = MappedRows(files, folder / source.slug / CACHE_FOLDER, settings.half, columns)
    return ShardFeed(source, records, width, mapped)


def check_fits(spec: str | Path | Prepared, talker: Talker, *, waves: bool = False) -> Prepared:
    """Check that data was made with the encoder and codec that the talker has now.

    Args:
        spec: The prepared folder or address, or its description.
        waves: Whether the run reads the questions' sound instead of features, as stages that train the encoder do.

    Returns:
        The description of the folder.

    Raises:
        ConfigError: what differs, and how to prepare the data again.
    """
    prepared = spec if isinstance(spec, Prepared) else read_prepared(spec)
    name = "the data" if isinstance(spec, Prepared) else f"'{spec}'"
    settings = prepared.settings
    again = f"prepare it for this talker, in a new folder: anytalk prepare data.yaml -o NEW --talker {talker.folder}"
    present = codec_info(talker.config, talker.codec)
    if present != settings.codec:
        raise ConfigError(f"{name} was prepared with another codec: {_unlike(settings.codec, present)}", again)
    if waves and not settings.sound:
        raise ConfigError(
            f"{name} holds no sound, and a stage that trains the speech encoder needs it",
            "prepare it again with --keep-sound, in a new folder",
        )
    if talker.model.encoder is not None and settings.encoder is not None:
        ears = senses_of(talker.config, talker.model.encoder, talker.codec).encoder_info
        assert ears is not None
        # Sound kept at another rate is useless to the encoder, even if it runs during training.
        if ears.sample_rate_hz != settings.encoder.sample_rate_hz:
            raise ConfigError(f"{name} was prepared for another sample rate: {_unlike(settings.encoder, ears)}", again)
        if not waves and settings.features and ears != settings.encoder:
            was_trained = talker.config.weights is not None and "encoder" in talker.config.weights.parts
            raise ConfigError(
                f"{name} holds features of another speech encoder: {_unlike(settings.encoder, ears)}"
                + (" (it was trained since)" if was_trained else ""),
                again,
            )
    known = set(talker.config.speakers)
    unknown = sorted(set(settings.speakers) - known) if known else []
    if unknown:
        raise ConfigError(f"{name} has voices that the talker has no embedding for: {', '.join(unknown)}", again)
    return prepared


def _unlike(old: Any, new: Any) -> str:
    return "; ".join(differences(old.model_dump(), new.model_dump()))


__all__ = ["MappedRows", "ShardFeed", "StreamedRows", "check_fits", "is_prepared", "open_shards"]
