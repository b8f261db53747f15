"""Implements the data source ``slam-omni``: SLAM-Omni's training data, as JSONL or as published parquet sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import Field

from anytalk.errors import DataError
from anytalk.plugins.contracts import BadRow, CodecCodes, Message, Row
from anytalk_adapters.snac_format import SNAC_24KHZ, parse_snac
from anytalk_adapters.source_datasets import Table, TableOptions, TableSource, open_table
from anytalk_adapters.source_fields import check_history, need_columns, sound_of, text_of
from anytalk_adapters.source_records import Record, make_rows

COSYVOICE = "cosyvoice/22050/1x4096"
"""Token format of CosyVoice 1's semantic tokens (one codebook of 4096, 50 per second), on which SLAM-Omni trains."""

CODEBOOK_SIZE = 4096
COLUMNS = {
    "source_wav": "question_audio",
    "source_text": "question",
    "target_wav": "answer_audio",
    "target_token": "answer_cosyvoice_speech_token",
    "target_text": "answer",
}
"""Keys of the JSONL, with the columns of the published parquet sets that mean the same."""


class SlamOmniSource(TableSource):
    """Reads the keys key, source_wav, source_text, target_token (or target_wav) and target_text.

    The tokens are CosyVoice's, which no codec of anytalk decodes, so `anytalk prepare` synthesizes spoken answers from
    their text. The sound of questions is used as it is.
    """

    class Options(TableOptions):
        history: bool = Field(
            True,
            description="Split 'USER: .. ASSISTANT: .. <USER>: ..' in the question into turns and the question.",
        )

    def rows(self) -> Iterator[Row | BadRow]:
        with open_table(self.options) as table:
            # The JSONL's keys win where a table has both.
            columns = {key: name for key, name in COLUMNS.items() if name in table.columns and key not in table.columns}
            needed = [columns.get(key, key) for key in ("source_text", "target_text")]
            need_columns(table.columns, needed, table.name)
            yield from make_rows(table.records, lambda record: [self._row(record, table, columns)])

    def _row(self, record: Record, table: Table, columns: Mapping[str, str]) -> Row:
        where = record.id
        data = {key: record.data.get(columns.get(key, key)) for key in COLUMNS}
        question, history = text_of(data["source_text"], "source_text", where), tuple[Message, ...]()
        if question and self.options.history:
            question, history = split_history(question, where)
        answer = text_of(data["target_text"], "target_text", where)
        if not answer:
            raise DataError(f"{where}: field 'target_text' is empty", "its tokens alone can't be voiced; leave it out")
        return Row(
            id=where,
            question_text=question,
            question_audio=sound_of(data["source_wav"], "source_wav", where, table.folder),
            answer_text=answer,
            answer_audio=sound_of(data["target_wav"], "target_wav", where, table.folder),
            answer_codes=_codes(data["target_token"], where),
            history=history,
        )


def split_history(text: str, where: str) -> tuple[str, tuple[Message, ...]]:
    """Split ``"USER: q ASSISTANT: a <USER>: now"`` into ``"now"`` and two messages; other text stays whole.

    Raises:
        DataError: The turns don't alternate.
    """
    past, mark, question = text.rpartition("<USER>:")
    if not mark:
        return text.strip(), ()
    # `split` keeps the roles, so `parts` alternates between a role and its text.
    before, *parts = re.split(r"\b(USER|ASSISTANT):", past)
    if before.strip():
        raise DataError(f"{where}: the history begins with '{before.strip()[:20]}', not with 'USER:'", "fix the row")
    messages = tuple(
        Message(role=role.lower(), text=said.strip()) for role, said in zip(parts[::2], parts[1::2], strict=True)
    )
    check_history(messages, where)
    return question.strip(), messages


def _codes(value: Any, where: str) -> CodecCodes | None:
    """Return CosyVoice tokens (1,F), or (7,F) for a string of SNAC codes (a common mistake; SLAM-LLM issue 217)."""
    if value is None:
        return None
    if isinstance(value, str) and "#" in value:
        return CodecCodes(parse_snac(value, where), SNAC_24KHZ)
    items = value.split() if isinstance(value, str) else value
    hint = f"expected a list of CosyVoice tokens, 0 to {CODEBOOK_SIZE - 1}"
    if not isinstance(items, list) or not all(str(item).isdecimal() for item in items):
        raise DataError(f"{where}: field 'target_token' is not a list of whole numbers", hint)
    codes = np.array([int(item) for item in items], dtype=np.int64)
    wrong = codes[codes >= CODEBOOK_SIZE]
    if len(wrong):
        raise DataError(f"{where}: field 'target_token' holds {wrong[0]}", hint)
    return CodecCodes(codes[None], COSYVOICE) if len(codes) else None
