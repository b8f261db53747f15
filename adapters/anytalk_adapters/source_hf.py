"""Implements the data source ``hf``: tables that Hugging Face `datasets` reads, with columns mapped to fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field

from anytalk.errors import ConfigError, DataError, did_you_mean
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import MANIFEST_FIELDS, BadRow, Row
from anytalk_adapters.source_datasets import Table, TableOptions, TableSource, open_dataset, picked
from anytalk_adapters.source_fields import ALIASES, need_columns, row_of
from anytalk_adapters.source_records import Record, make_rows


class HubSource(TableSource):
    """Reads a data set on the hub or on disk; columns that belong to no field are ignored."""

    class Options(TableOptions):
        columns: dict[str, str] = Field(
            default_factory=dict,
            description="Field to column, e.g. {question_text: transcript, answer_text: answers.text.0}; dots lead "
            "into nested columns. Fields left out take the column of their own name, if there is one.",
        )

    @classmethod
    def build(cls, options: HubSource.Options, context: BuildContext) -> Self:
        """Build the source; DataError if the path doesn't exist, ConfigError if `columns` names an unknown field."""
        for field in options.columns:
            if field not in MANIFEST_FIELDS:
                raise ConfigError(
                    f"columns: unknown field '{field}'{did_you_mean(field, list(MANIFEST_FIELDS))}",
                    f"fields: {', '.join(MANIFEST_FIELDS)}",
                )
        return super().build(options, context)

    def rows(self) -> Iterator[Row | BadRow]:
        table = open_dataset(self.options)
        columns = self._columns(table)
        yield from make_rows(table.records, lambda record: [_row(record, columns, table)])

    def _columns(self, table: Table) -> dict[str, str]:
        """Return the column, or the dotted path, of each field."""
        columns = dict(self.options.columns)
        for field, path in columns.items():
            if path not in table.columns:
                need_columns(table.columns, [path.partition(".")[0]], f"{table.name} (for '{field}')")
        # Columns with a field's own name are used unless they are mapped already.
        for name, field in [*zip(MANIFEST_FIELDS, MANIFEST_FIELDS, strict=True), *ALIASES.items()]:
            if name in table.columns and name not in columns.values():
                columns.setdefault(field, name)
        if not columns:
            raise DataError(
                f"{table.name}: none of its columns is a field: {', '.join(table.columns) or 'it has none'}",
                "say which is which: options: {columns: {question_text: ..., answer_text: ...}}",
            )
        return columns


def _row(record: Record, columns: dict[str, str], table: Table) -> Row:
    fields: dict[str, Any] = {field: picked(record.data, path, record.id) for field, path in columns.items()}
    if isinstance(fields.get("speaker"), int):  # many data sets number their speakers
        fields["speaker"] = str(fields["speaker"])
    return row_of(fields, record.id, table.folder)
