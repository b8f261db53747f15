"""Implements the data sources ``jsonl`` and ``csv``, for a user's own manifests. Paths are relative to the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field

from anytalk import plugins
from anytalk.errors import DataError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import MANIFEST_FIELDS, BadRow, DataSource, Row
from anytalk_adapters.source_fields import ALIASES, check_names, row_of
from anytalk_adapters.source_records import Place, Record, find_manifest, make_rows, open_csv, read_json


class JsonlSource(DataSource):
    """Reads one JSON object per line, with the fields of :data:`anytalk.plugins.contracts.MANIFEST_FIELDS`.

    ``audio`` and ``text`` are aliases of ``question_audio`` and ``question_text``.
    """

    licence = "of the data"

    class Options(plugins.Options):
        path: str = Field(description="The manifest: a file, or an address that fsspec opens.")

    def __init__(self, place: Place) -> None:
        self.place = place

    @classmethod
    def build(cls, options: JsonlSource.Options, context: BuildContext) -> Self:
        """Build the source (DataError: the manifest doesn't exist)."""
        return cls(find_manifest(options.path))

    def rows(self) -> Iterator[Row | BadRow]:
        records = read_json(self.place, ", ".join(MANIFEST_FIELDS))
        return make_rows(records, lambda record: [row_of(record.data, record.id, self.place.folder)])


class CsvSource(DataSource):
    """Reads the same fields from the columns of a CSV file with a header; an empty cell is no value.

    ``history`` is JSON; ``tasks`` is JSON, or names separated by commas or blanks.
    """

    licence = "of the data"

    class Options(plugins.Options):
        path: str = Field(description="The manifest: a file, or an address that fsspec opens.")
        delimiter: str | None = Field(
            None, min_length=1, max_length=1, description="Delimiter of cells; null: a tab for .tsv, otherwise a comma."
        )

    def __init__(self, place: Place, delimiter: str) -> None:
        self.place, self.delimiter = place, delimiter

    @classmethod
    def build(cls, options: CsvSource.Options, context: BuildContext) -> Self:
        """Build the source (DataError: the manifest doesn't exist)."""
        place = find_manifest(options.path)
        return cls(place, options.delimiter or ("\t" if place.suffix == ".tsv" else ","))

    def rows(self) -> Iterator[Row | BadRow]:
        with open_csv(self.place, self.delimiter) as (columns, records):
            other = next((c for c in ";\t|" if len(columns) == 1 and c in columns[0]), None)
            if other is not None:
                raise DataError(
                    f"{self.place.name}:1 has one column, '{columns[0][:60]}': cells seem to end with {other!r}",
                    f"say so in data.yaml: options: {{delimiter: {json.dumps(other)}}}",
                )
            check_names(columns, (*MANIFEST_FIELDS, *ALIASES), f"{self.place.name}:1", "column")
            yield from make_rows(records, self._row)

    def _row(self, record: Record) -> list[Row]:
        data = dict(record.data)
        for field in ("history", "tasks"):
            # A cell is text, and these fields are lists.
            if data.get(field) is not None:
                data[field] = _listed(data[field], field, record.id)
        return [row_of(data, record.id, self.place.folder)]


def _listed(cell: str, field: str, where: str) -> Any:
    if field == "tasks" and not cell.lstrip().startswith("["):
        return cell.replace(",", " ").split()
    try:
        return json.loads(cell)
    except ValueError as error:
        raise DataError(f"{where}: column '{field}' is not JSON: {error}", "write the list as JSON") from None
