"""Implements the data source ``messages``: conversations with sound (:mod:`anytalk_adapters.source_chat`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from anytalk.errors import DataError
from anytalk.plugins.contracts import BadRow, Message, Row
from anytalk_adapters.source_chat import turns_of
from anytalk_adapters.source_datasets import Table, TableOptions, TableSource, open_table
from anytalk_adapters.source_fields import check_history, need_columns, tasks_of, text_of
from anytalk_adapters.source_records import Record, make_rows


class MessagesSource(TableSource):
    """Makes the last user and assistant turns question and answer, or each pair in turn; earlier turns are history."""

    class Options(TableOptions):
        all_turns: bool = Field(
            False, description="Make one row for each turn of the assistant, not only for the last."
        )
        words: Literal["refuse", "transcript", "instruction"] = Field(
            "refuse",
            description="What text beside a user's sound is: its transcript, or an instruction about it (which goes "
            "into the system message). Sets differ; refuse: such rows are bad until you say.",
        )

    def rows(self) -> Iterator[Row | BadRow]:
        with open_table(self.options) as table:
            if "conversations" not in table.columns:
                need_columns(table.columns, ["messages"], table.name)
            yield from make_rows(table.records, lambda record: self._rows(record, table))

    def _rows(self, record: Record, table: Table) -> list[Row]:
        where, data = record.id, record.data
        turns = self._settled(turns_of(data, where, table.folder), where)
        # A last question without an answer can't be trained on.
        while turns and turns[-1].role != "assistant":
            turns.pop()
        answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
        if not answers:
            raise DataError(f"{where}: no turn is the assistant's", "a row needs a question and its answer")
        many = self.options.all_turns and len(answers) > 1
        return [
            _row(
                f"{where}.{place}" if many else where,
                turns[: number + 1],
                speaker=text_of(data.get("speaker"), "speaker", where),
                tasks=tasks_of(data.get("tasks"), where),
            )
            for place, number in enumerate(answers, start=1)
            if self.options.all_turns or number == answers[-1]
        ]

    def _settled(self, turns: list[Message], where: str) -> list[Message]:
        """Apply the option `words` to turns in which a user has both sound and text."""
        settled, instructions = [], []
        for number, turn in enumerate(turns, start=1):
            if turn.role == "user" and turn.audio is not None and turn.text and self.options.words != "transcript":
                if self.options.words == "refuse":
                    raise DataError(
                        f"{where}, turn {number} has both sound and the text '{turn.text[:40]}'",
                        "say what the text is: options: {words: transcript}, or {words: instruction}",
                    )
                instructions += [turn.text] if turn.text not in instructions else []
                turn = replace(turn, text=None)
            settled.append(turn)
        if instructions:
            system = [settled.pop(0).text] if settled[0].role == "system" else []
            joined = "\n".join(text for text in (*system, *instructions) if text)
            settled.insert(0, Message(role="system", text=joined))
        return settled


def _row(where: str, turns: Sequence[Message], speaker: str | None, tasks: tuple[str, ...] | None) -> Row:
    # A lone answer gets an empty question here, which the next check reports.
    *past, question, answer = turns if len(turns) > 1 else (Message(role=""), *turns)
    if question.role != "user":
        raise DataError(f"{where}: turn {len(turns)}, the assistant's, doesn't follow on the user's", "fix the row")
    if (question.text or question.audio) is None or (answer.text or answer.audio) is None:
        raise DataError(f"{where}: its question or its answer is empty", "leave the row out")
    check_history(past, where)
    return Row(
        id=where,
        question_text=question.text,
        question_audio=question.audio,
        answer_text=answer.text,
        answer_audio=answer.audio,
        speaker=speaker,
        history=tuple(past),
        tasks=tasks,
    )
