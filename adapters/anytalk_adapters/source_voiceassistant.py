"""Implements the data source ``voiceassistant``: VoiceAssistant-400K as published (gpt-omni on the hub)."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from anytalk.errors import DataError
from anytalk.plugins.contracts import BadRow, CodecCodes, Message, Row
from anytalk_adapters.snac_format import SNAC_24KHZ, parse_snac
from anytalk_adapters.source_datasets import Table, TableOptions, TableSource, open_table
from anytalk_adapters.source_fields import need_columns, sound_of, text_of
from anytalk_adapters.source_records import Record, make_rows

CONTENT = ("question", "question_audio", "answer", "answer_snac")
CONVERSATION = ("split_name", "index", "round")


class VoiceAssistantSource(TableSource):
    """Reads the columns split_name, index, round, question, question_audio, answer and answer_snac.

    The answers are codes of SNAC at 24 kHz, which a talker with that codec uses as they are.
    """

    licence = "Apache-2.0 (the data set; see its page)"

    class Options(TableOptions):
        path: str = Field(
            "gpt-omni/VoiceAssistant-400K", description="The hub id, or a local copy (parquet file or folder)."
        )
        history: bool = Field(
            True,
            description="Put the earlier rounds of a conversation (same split_name and index; its rows must stand next "
            "to each other, in order) before the question, as text.",
        )

    def rows(self) -> Iterator[Row | BadRow]:
        with open_table(self.options) as table:
            need_columns(table.columns, CONTENT + (CONVERSATION if self.options.history else ()), table.name)
            rounds = _Rounds() if self.options.history else None
            yield from make_rows(table.records, lambda record: [_row(record, table, rounds)])


def _row(record: Record, table: Table, rounds: _Rounds | None) -> Row:
    where, data = record.id, record.data
    question, answer = (text_of(data.get(name), name, where) for name in ("question", "answer"))
    # Before anything raises: a row with wrong codes is still a round of its conversation.
    history = () if rounds is None else rounds.before(record, question, answer)
    codes = text_of(data.get("answer_snac"), "answer_snac", where)
    return Row(
        id=where,
        question_text=question,
        question_audio=sound_of(data.get("question_audio"), "question_audio", where, table.folder),
        answer_text=answer,
        answer_codes=CodecCodes(parse_snac(codes, where), SNAC_24KHZ) if codes else None,
        history=history,
    )


class _Rounds:
    """Collects the rounds of the current conversation."""

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._round = 0
        self._messages: tuple[Message, ...] = ()
        self._is_broken = False

    def before(self, record: Record, question: str | None, answer: str | None) -> tuple[Message, ...]:
        """Return the turns before a row, and add the row's own turns.

        Raises:
            DataError: An earlier round is missing, is elsewhere in the table, or has no text.
        """
        where, data = record.id, record.data
        number = data.get("round")
        if not isinstance(number, int):
            raise DataError(
                f"{where}: column 'round' is {number!r}; a whole number is expected",
                "fix the row, or set history: false",
            )
        key = (str(data.get("split_name")), str(data.get("index")))
        follows = key == self._key and number == self._round + 1
        before = self._messages if follows else ()
        # Rounds may be counted from 0 or from 1.
        is_broken = self._is_broken if follows else number > 1
        said = (Message(role="user", text=question), Message(role="assistant", text=answer))
        self._key, self._round, self._messages = key, number, (*before, *said)
        # Later rounds can't use a conversation with a gap.
        self._is_broken = is_broken or not question or not answer
        if is_broken:
            raise DataError(
                f"{where}: round {number} of '{key[1]}' doesn't follow on all its earlier rounds, with text",
                "keep the rows of a conversation together and in order, or set history: false",
            )
        return before
