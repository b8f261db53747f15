"""Implements the data source ``textqa``: written questions and answers, such as Open-Orca, Alpaca or Dolly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from pydantic import Field

from anytalk.errors import ConfigError, DataError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import BadRow, Message, Row
from anytalk_adapters.source_datasets import Table, TableOptions, TableSource, open_table, picked
from anytalk_adapters.source_fields import text_of
from anytalk_adapters.source_records import Record, make_rows

NO_INPUT = "<noinput>"
"""What some Alpaca-like data sets write into an empty `input`."""


@dataclass(frozen=True)
class Layout:
    """Names the columns of a table of questions and answers."""

    question: str  # column of the question
    answer: str  # column of the answer
    more: str | None = None  # column of what the question is about, which is appended to it on a new line
    system: str | None = None  # column of the system message


LAYOUTS = {
    "open-orca": Layout("question", "response", system="system_prompt"),
    "alpaca": Layout("instruction", "output", more="input"),
    "dolly": Layout("instruction", "response", more="context"),
    "instruction-output": Layout("instruction", "output"),
    "instruction-response": Layout("instruction", "response"),
    "anytalk": Layout("question_text", "answer_text"),
    "question-answer": Layout("question", "answer"),
    "question-response": Layout("question", "response"),
    "prompt-response": Layout("prompt", "response"),
    "prompt-completion": Layout("prompt", "completion"),
    "query-response": Layout("query", "response"),
}
"""Known layouts; the first one whose columns all exist is used."""


class TextQASource(TableSource):
    """Reads text only: `anytalk prepare` synthesizes its speech, or it serves T1T2 as it is."""

    class Options(TableOptions):
        question: str | None = Field(
            None, description="Column of the question; with `answer`, overrides the detection."
        )
        answer: str | None = Field(None, description="Column of the answer.")
        more: str | None = Field(None, description="Column appended to the question on a new line, if not empty.")
        system: str | None = Field(None, description="Column of a system message.")

    @classmethod
    def build(cls, options: TextQASource.Options, context: BuildContext) -> Self:
        """Build the source; DataError if the path doesn't exist, ConfigError if only one of two columns is named."""
        if (options.question is None) != (options.answer is None):
            raise ConfigError("textqa: only one of 'question' and 'answer' is given", "name both columns, or neither")
        return super().build(options, context)

    def rows(self) -> Iterator[Row | BadRow]:
        with open_table(self.options) as table:
            layout = self._layout(table)
            yield from make_rows(table.records, lambda record: [_row(record, layout)])

    def _layout(self, table: Table) -> Layout:
        given = self.options
        if given.question is not None and given.answer is not None:
            layout = Layout(given.question, given.answer, given.more, given.system)
            for path in (layout.question, layout.answer, layout.more, layout.system):
                if path is not None and path not in table.columns:
                    picked(dict.fromkeys(table.columns), path.partition(".")[0], table.name)
            return layout
        for layout in LAYOUTS.values():
            needed = [c for c in (layout.question, layout.answer, layout.more, layout.system) if c is not None]
            if all(column in table.columns for column in needed):
                return layout
        known = "; ".join(f"{layout.question}, {layout.answer}" for layout in LAYOUTS.values())
        raise DataError(
            f"{table.name}: no known question and answer among its columns: {', '.join(table.columns) or 'none'}",
            f"name them: options: {{question: ..., answer: ...}} (known without names: {known})",
        )


def _row(record: Record, layout: Layout) -> Row:
    def text(column: str | None) -> str:
        value = None if column is None else picked(record.data, column, record.id)
        return (text_of(value, column or "", record.id) or "").strip()

    question, answer, more, system = (text(c) for c in (layout.question, layout.answer, layout.more, layout.system))
    for column, value in ((layout.question, question), (layout.answer, answer)):
        if not value:
            raise DataError(f"{record.id}: column '{column}' is empty", "leave the row out")
    return Row(
        id=record.id,
        question_text=f"{question}\n{more}" if more and more != NO_INPUT else question,
        answer_text=answer,
        history=(Message(role="system", text=system),) if system else (),
    )
