"""Reads tables of records one at a time: JSON lines, a JSON array or CSV, from a file or an address."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from anytalk.errors import DataError
from anytalk.plugins.contracts import BadRow, Row

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
CSV_SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True)
class Record:
    """Holds one record of a table."""

    id: str  # `NAME:NUMBER`: the file's name, and the line or the index from 1
    data: dict[str, Any]  # values by column


@dataclass(frozen=True)
class Place:
    """Locates a file on this machine or at an address."""

    location: Path | str  # absolute path, or an address that fsspec opens

    @property
    def name(self) -> str:
        return self.location.name if isinstance(self.location, Path) else self.location.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Return the suffix in lower case, such as ``".jsonl"``."""
        return Path(self.name).suffix.lower()

    @property
    def folder(self) -> Path | str:
        """Return the folder that relative paths in the file start from."""
        return self.location.parent if isinstance(self.location, Path) else self.location.rpartition("/")[0]

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file for reading bytes (DataError: it can't be read)."""
        import fsspec

        try:
            opening = fsspec.open(str(self.location), "rb")
        except ValueError as error:  # fsspec doesn't know the protocol
            raise DataError(f"'{self.location}' can't be read: {error}", "check the address") from None
        try:
            with opening as file:
                yield file
        except (OSError, ImportError) as error:
            raise DataError(
                f"'{self.location}' can't be read: {' '.join(str(error).split())}", "check the path and its permissions"
            ) from None


def find_manifest(path: str) -> Place:
    """Return the place of a manifest (DataError: there is no such file)."""
    if "://" in path:
        return Place(path)
    found = Path(path).expanduser().absolute()
    if not found.is_file():
        raise DataError(f"manifest '{path}' doesn't exist", f"give the path of a {found.suffix or '.jsonl'} file")
    return Place(found)


def read_json(place: Place, fields: str = "") -> Iterator[Record | BadRow]:
    """Yield the records of a JSONL file, or of a JSON file that holds one array of objects.

    Args:
        fields: Names of the fields, for the hint if a line is no object.

    Raises:
        DataError: The file can't be read, or an array isn't JSON.
    """
    with place.open() as file:
        if place.suffix == ".json" and _begins_array(file):
            yield from _read_array(place, file, fields)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse_line(line, f"{place.name}:{number}", fields)


def _begins_array(file: IO[bytes]) -> bool:
    # The prefix is the byte order mark that some editors write into UTF-8 files.
    begin = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    file.seek(0)
    return begin == b"["


def _read_array(place: Place, file: IO[bytes], fields: str) -> Iterator[Record | BadRow]:
    try:
        items = json.loads(file.read().decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"'{place.location}' is not JSON: {error}", "write an array, or one object per line") from None
    for number, item in enumerate(items, start=1):
        yield _checked(item, f"{place.name}:{number}", fields)


def _parse_line(line: bytes, where: str, fields: str) -> Record | BadRow:
    try:
        return _checked(json.loads(line.decode("utf-8-sig")), where, fields)
    except UnicodeDecodeError:
        return BadRow(id=where, reason=f"{where} is not UTF-8 text", hint="save the manifest as UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRow(id=where, reason=f"{where} is not JSON: {error}", hint="write one JSON object per line")


def _checked(item: Any, where: str, fields: str) -> Record | BadRow:
    if isinstance(item, dict):
        return Record(where, item)
    reason = f"{where} is a JSON {type(item).__name__}; an object is expected"
    return BadRow(id=where, reason=reason, hint=f"fields: {fields}" if fields else "write one JSON object per line")


@contextmanager
def open_csv(place: Place, delimiter: str) -> Iterator[tuple[list[str], Iterator[Record | BadRow]]]:
    """Open a CSV file with a header and return its column names and records; empty cells are None.

    Records are numbered like the rows of a spreadsheet: the header is row 1.

    Raises:
        DataError: The file can't be read, has no header or a column twice, or isn't UTF-8.
    """
    with place.open() as file:
        # Bytes that are no UTF-8 come as halves of characters, so that they cost their row and not the rows after it.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        numbered = _csv_lines(csv.reader(text, delimiter=delimiter, strict=True))
        first = next(numbered, [])
        if isinstance(first, csv.Error):
            raise DataError(f"{place.name}:1 is not CSV: {first}", "are its quotes closed?")
        if not _is_text(first):
            raise DataError(f"'{place.location}' is not UTF-8 text", "save the manifest as UTF-8")
        header = [name.strip() for name in first]
        if not any(header):
            raise DataError(f"'{place.location}' is empty", "write column names into its first line")
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(f"{place.name}:1: column '{twice}' is there twice", "rename one of them")
        yield header, _csv_records(header, numbered, place)


def _csv_lines(lines: Iterator[list[str]]) -> Iterator[list[str] | csv.Error]:
    """Yield rows, and in place of one that can't be told into cells why; the reader begins anew in the next line."""
    while True:
        try:
            yield next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield error


def _is_text(cells: Iterable[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv_records(header: list[str], lines: Iterable[list[str] | csv.Error], place: Place) -> Iterator[Record | BadRow]:
    for number, cells in enumerate(lines, start=2):
        where = f"{place.name}:{number}"
        if isinstance(cells, csv.Error):
            yield BadRow(id=where, reason=f"{where} is not CSV: {cells}", hint="are its quotes closed?")
            continue
        if not any(cells):
            continue
        if len(cells) != len(header):
            reason = f"{where} has {len(cells)} cells; the header has {len(header)}"
            yield BadRow(id=where, reason=reason, hint="quote cells that hold the delimiter")
            continue
        if not _is_text(cells):
            yield BadRow(id=where, reason=f"{where} is not UTF-8 text", hint="save the manifest as UTF-8")
            continue
        yield Record(where, {name: cell or None for name, cell in zip(header, cells, strict=True)})


def make_rows(records: Iterable[Record | BadRow], make: Callable[[Record], Iterable[Row]]) -> Iterator[Row | BadRow]:
    """Yield the rows of records; an error in one record becomes its :class:`~anytalk.plugins.contracts.BadRow`."""
    for record in records:
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            yield from list(make(record))  # a list, so that a record that fails halfway gives no rows
        except DataError as error:
            yield BadRow(id=record.id, reason=error.message, hint=error.hint)
        except Exception as error:  # one record must not end the whole run
            reason = f"{record.id}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            yield BadRow(id=record.id, reason=reason)
