"""Opens tables through Hugging Face `datasets`: a hub id, a local folder or file, or the output of ``save_to_disk``.

Sound isn't decoded here but stays the bytes of its file. Scripts of data sets are never run. Local files are read where
they are and not copied to the cache of `datasets`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from anytalk import plugins
from anytalk.errors import DataError, did_you_mean
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import BadRow, DataSource
from anytalk.plugins.optional import require
from anytalk_adapters.source_fields import Folder
from anytalk_adapters.source_records import CSV_SUFFIXES, JSON_SUFFIXES, Place, Record, open_csv, read_json

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_READERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    **dict.fromkeys(JSON_SUFFIXES, "json"),
    **dict.fromkeys(CSV_SUFFIXES, "csv"),
}
_SAVED = ("state.json", "dataset_dict.json")
"""Files of which one is in every folder that ``save_to_disk`` wrote."""


class TableOptions(plugins.Options):
    """Options of all sources that read tables: where the table is."""

    path: str = Field(description="A file (parquet, arrow, json, jsonl, csv), a folder, an address, or a hub id.")
    config: str | None = Field(None, description="Configuration (subset) of a data set that has several.")
    split: str = Field("train", description="Split, e.g. train or validation.")
    streaming: bool = Field(
        False, description="Stream a hub data set instead of downloading it; local files are never copied."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub data set.")


@dataclass(frozen=True)
class Table:
    """Holds an opened table."""

    name: str  # its name in messages
    columns: list[str]  # names of its columns
    records: Iterator[Record | BadRow]  # its records, which can be read once
    folder: Folder  # the folder that relative paths in it start from


_ROWS_AT_ONCE: dict[str, Any] = {"batch_size": 256}
"""Rows of parquet that are read at once: `datasets` takes as many as the first group has, and fails at none."""


class TableSource(DataSource):
    """Reads rows from a table; the base class of several data sources."""

    licence = "of the data"

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Build the source (DataError: the path doesn't exist)."""
        locate(options.path)
        return cls(options)


def locate(path: str) -> Path | str:
    """Return an absolute local path, an address, or a hub id; a path that exists takes precedence over a hub id.

    Raises:
        DataError: The path doesn't exist.
    """
    if "://" in path:
        return path
    local = Path(path).expanduser()
    if local.exists():
        return local.absolute()
    # Such a name is meant as a path, so it isn't looked up on the hub.
    if path.startswith((".", "/", "~")) or _suffix(path) in _READERS or not _HUB_ID.match(path):
        raise DataError(f"'{path}' doesn't exist", "give a file, a folder, or a hub id such as 'tatsu-lab/alpaca'")
    return path


def is_hub_id(location: Path | str) -> bool:
    """Return whether a result of :func:`locate` is a hub id."""
    return isinstance(location, str) and "://" not in location


@contextmanager
def open_table(options: TableOptions) -> Iterator[Table]:
    """Open a table. JSON and CSV files are read without `datasets`, which would stop at a broken line.

    Raises:
        DataError: There is nothing there, it can't be read, or the split or configuration is unknown. While records
            are read, also for a file that ends too early or a lost connection.
        ConfigError: `datasets` is needed and isn't installed.
    """
    location = locate(options.path)
    place = Place(location)
    if not is_hub_id(location) and not _is_folder(location):
        if place.suffix in CSV_SUFFIXES:
            with open_csv(place, "\t" if place.suffix == ".tsv" else ",") as (columns, records):
                yield Table(place.name, columns, records, place.folder)
            return
        if place.suffix in JSON_SUFFIXES:
            yield _peeked(place.name, None, read_json(place), place.folder)
            return
    yield open_dataset(options)


def open_dataset(options: TableOptions) -> Table:
    """Open a table of any kind through `datasets`; raises what :func:`open_table` raises."""
    location = locate(options.path)
    try:
        with _quiet():
            dataset = _undecoded(_load(location, options))
    except _errors() as error:
        raise _explained(error, options) from None
    place = Place(location)
    folder: Folder = None if is_hub_id(location) else location if _is_folder(location) else place.folder
    return _peeked(place.name, dataset.column_names, _records(dataset, place.name), folder)


def _peeked(name: str, columns: list[str] | None, records: Iterator[Record | BadRow], folder: Folder) -> Table:
    """Return a table; if its columns aren't known, they are those of its first good record."""
    if columns is not None:
        return Table(name, columns, records, folder)
    seen: list[Record | BadRow] = []
    for record in records:
        seen.append(record)
        if isinstance(record, Record):
            return Table(name, list(record.data), chain(seen, records), folder)
    return Table(name, [], iter(seen), folder)


def _is_folder(location: Path | str) -> bool:
    return isinstance(location, Path) and location.is_dir()


def _suffix(name: str) -> str:
    """Return the suffix of a data file, without that of a compression."""
    path = Path(name)
    return Path(path.stem).suffix.lower() if path.suffix in (".gz", ".zst", ".bz2", ".xz") else path.suffix.lower()


def _load(location: Path | str, options: TableOptions) -> Any:
    """Load the table as a ``datasets.IterableDataset``."""
    datasets = _datasets()
    if is_hub_id(location):
        loaded = datasets.load_dataset(
            location, options.config, split=options.split, revision=options.revision, streaming=options.streaming
        )
    elif isinstance(location, Path) and any((location / name).is_file() for name in _SAVED):
        loaded = datasets.load_from_disk(str(location))
        if isinstance(loaded, dict):
            if options.split not in loaded:
                raise ValueError(f"Unknown split '{options.split}'. It has: {', '.join(loaded)}")
            loaded = loaded[options.split]
    elif _is_folder(location):
        # Streaming reads files where they are; without, `datasets` would copy them into its cache.
        more = _ROWS_AT_ONCE if _holds_parquet(Path(location)) else {}
        loaded = datasets.load_dataset(str(location), options.config, split=options.split, streaming=True, **more)
    else:
        suffix = _suffix(Place(location).name)
        if suffix not in _READERS:
            raise ValueError(f"its suffix is '{suffix}'; {', '.join(_READERS)} are known")
        # The csv reader of `datasets` expects commas.
        more = {"sep": "\t"} if suffix == ".tsv" else _ROWS_AT_ONCE if suffix == ".parquet" else {}
        files = {"train": [str(location)]}
        loaded = datasets.load_dataset(_READERS[suffix], data_files=files, split=options.split, streaming=True, **more)
    return loaded if isinstance(loaded, datasets.IterableDataset) else loaded.to_iterable_dataset()


def _holds_parquet(folder: Path) -> bool:
    """Return whether the tables of a folder are parquet files."""
    found = {_suffix(path.name) for path in folder.rglob("*")} & set(_READERS)
    return found == {".parquet"}


def _undecoded(dataset: Any) -> Any:
    """Return the data set with sound and pictures left encoded, so that torchcodec isn't needed."""
    if dataset.features is None:
        return dataset
    features = {name: _plain(feature) for name, feature in dataset.features.items()}
    return dataset.cast(_datasets().Features(features)) if features != dict(dataset.features) else dataset


def _plain(feature: Any) -> Any:
    if isinstance(feature, Mapping):
        return {name: _plain(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_plain(inner) for inner in feature]
    if getattr(feature, "decode", False):
        # Features are dataclasses, and `decode=False` leaves sound and pictures as bytes.
        return replace(feature, decode=False)
    return replace(feature, feature=_plain(feature.feature)) if hasattr(feature, "feature") else feature


def _records(dataset: Any, name: str) -> Iterator[Record]:
    items, number = iter(dataset), 0
    while True:
        number += 1
        try:
            data = next(items)
        except StopIteration:
            return
        except _errors() as error:
            raise DataError(
                f"{name}:{number} can't be read: {_one_line(error)}", "is the file complete, and the connection up?"
            ) from None
        yield Record(f"{name}:{number}", dict(data))


def pick(data: Any, path: str) -> Any:
    """Return the value of a column, or of a dotted path through dicts and lists such as ``"answers.text.0"``.

    Raises:
        KeyError: The path doesn't exist; the argument is the step that failed.
    """
    if isinstance(data, Mapping) and path in data:
        return data[path]
    value = data
    for step in path.split("."):
        if value is None:
            return None
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            raise KeyError(step)
    return value


def picked(data: Mapping[str, Any], path: str, where: str) -> Any:
    """Return what :func:`pick` finds (DataError: the path doesn't exist; it names the row)."""
    try:
        return pick(data, path)
    except KeyError as error:
        step, known = str(error.args[0]), list(data)
        raise DataError(
            f"{where}: column '{path}' is missing{did_you_mean(step, known)}", f"its columns: {', '.join(known)}"
        ) from None


def _datasets() -> Any:
    require("this data source", "train", "datasets", "pyarrow")
    import datasets

    return datasets


def _errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that `datasets` and its dependencies raise for data that is missing or malformed."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    return (OSError, ValueError, TypeError, KeyError, RuntimeError, EOFError, DatasetsError, pyarrow.ArrowException)


def _explained(error: Exception, options: TableOptions) -> DataError:
    said = _one_line(error)
    # Most of these cases differ only in the words of the message.
    if isinstance(error, ConnectionError) or "offline" in said.lower():
        return DataError(
            f"'{options.path}' can't be reached on the hub: {said}",
            "is it a local path, misspelt? Without a network, give a local folder or file, or download it before",
        )
    if "gated" in said.lower():
        return DataError(
            f"'{options.path}' is a gated data set: {said}",
            "accept its terms on its page, then log in: hf auth login (or set HF_TOKEN)",
        )
    if "doesn't exist on the hub" in said.lower():
        return DataError(said, "check the id on huggingface.co/datasets; a private one needs `hf auth login`")
    hint = "check the file, or the id"
    if "split" in said.lower():
        hint = "name another split: options: {split: ...}"
    elif "config" in said.lower():
        hint = "name one of them: options: {config: ...}"
    elif "script" in said.lower():
        hint = "anytalk runs no code of a data set; look for a parquet version of it"
    return DataError(f"'{options.path}' can't be opened: {said}", hint)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence log lines of `datasets` and the hub, whose error will be raised, and progress bars off a terminal."""
    datasets = _datasets()
    from huggingface_hub.utils import logging as hub_logging

    levels = datasets.logging.get_verbosity(), hub_logging.get_verbosity()
    bars = datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.ERROR)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(levels[0])
        hub_logging.set_verbosity(levels[1])
        if not bars:
            datasets.enable_progress_bars()
