"""Checks the promises of :class:`~anytalk.plugins.contracts.DataSource` on the rows of a small source."""

from __future__ import annotations

from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np

from anytalk.plugins.contracts import Audio, BadRow, DataSource, Message, Row, Sound

ROLES = ("system", "user", "assistant")


def check_data_source(source: DataSource, max_rows: int = 1000) -> list[Row | BadRow]:
    """Check documented options with a path, and rows of the right types with unique ids, the same each time.

    Args:
        source: A built source of at least one row.
        max_rows: Check only this many rows.

    Returns:
        The rows that were checked.
    """
    assert isinstance(source, DataSource), f"{type(source).__name__} is no anytalk DataSource"
    called = f"data source {type(source).__name__}"
    options = type(source).Options.model_fields
    assert "path" in options, f"{called}: its Options need a field 'path'"
    assert all(field.description for field in options.values()), f"{called}: every option needs a description"
    rows = list(islice(source.rows(), max_rows))
    assert rows, f"{called} gives no rows"
    for row in rows:
        _check_row(row, called)
    ids = [row.id for row in rows]
    twice = next((name for name in ids if ids.count(name) > 1), None) if len(set(ids)) < len(ids) else None
    assert twice is None, f"{called}: two rows are called '{twice}'"
    # Readers must not share a file's position or any other state.
    first, again = source.rows(), source.rows()
    turns = [next(rows) for _ in range(min(2, len(ids))) for rows in (first, again)]
    assert [_outline(row) for row in turns[::2]] == [_outline(row) for row in turns[1::2]], (
        f"{called}: two readers at once disturb each other"
    )
    once_more = list(islice(source.rows(), max_rows))
    assert [_outline(row) for row in rows] == [_outline(row) for row in once_more], (
        f"{called} gives other rows the second time"
    )
    return rows


def _check_row(row: object, called: str) -> None:
    assert isinstance(row, Row | BadRow), f"{called} yields a {type(row).__name__}, not a Row or a BadRow"
    assert isinstance(row.id, str), f"{called}: an id is a {type(row.id).__name__}, not text"
    assert row.id, f"{called}: a row has an empty id"
    if isinstance(row, BadRow):
        assert row.reason.startswith(row.id), (
            f"{called}: the reason of '{row.id}' doesn't begin with its id: {row.reason}"
        )
        return
    for name in ("question_text", "answer_text", "speaker"):
        value = getattr(row, name)
        assert value is None or isinstance(value, str), f"{row.id}: {name} is a {type(value).__name__}"
    _check_audio(row.question_audio, f"{row.id}: question_audio")
    _check_audio(row.answer_audio, f"{row.id}: answer_audio")
    assert isinstance(row.history, tuple), f"{row.id}: history is a {type(row.history).__name__}, not a tuple"
    for number, message in enumerate(row.history, start=1):
        _check_message(message, number, row.id)
    tasks = row.tasks
    assert tasks is None or (isinstance(tasks, tuple) and all(isinstance(task, str) for task in tasks)), (
        f"{row.id}: tasks must be a tuple of names, or None"
    )
    if row.answer_codes is not None:
        codes = row.answer_codes.codes
        assert codes.ndim == 2, f"{row.id}: answer_codes must be (K,F), got {codes.shape}"
        assert codes.dtype == np.int64, f"{row.id}: answer_codes must be int64, got {codes.dtype}"
        assert codes.size, f"{row.id}: answer_codes are empty; None is expected"
        assert int(codes.min()) >= 0, f"{row.id}: answer_codes hold {int(codes.min())}"
        assert row.answer_codes.token_format, f"{row.id}: answer_codes name no token format"


def _check_message(message: object, number: int, where: str) -> None:
    here = f"{where}: turn {number} of the history"
    assert isinstance(message, Message), f"{here} is a {type(message).__name__}, not a Message"
    assert message.role in ROLES, f"{here} has the role '{message.role}'"
    assert message.role != "system" or number == 1, f"{here} is a system message after the first turn"
    assert message.text or (message.role == "user" and message.audio is not None), f"{here} is empty"
    _check_audio(message.audio, here)


def _check_audio(audio: Audio | None, what: str) -> None:
    if isinstance(audio, Sound):
        given = [name for name in ("data", "samples", "url") if getattr(audio, name) is not None]
        assert len(given) == 1, f"{what}: a Sound has exactly one of data, samples and url, got {given or 'none'}"
        assert audio.samples is None or audio.sample_rate_hz, f"{what}: samples need a sample_rate_hz"
        assert audio.name, f"{what}: a Sound needs a name"
    elif audio is not None:
        assert isinstance(audio, Path), f"{what} is a {type(audio).__name__}, not a Path or a Sound"
        assert audio.is_absolute(), f"{what}: '{audio}' is a relative path"


def _outline(row: Row | BadRow) -> tuple[object, ...]:
    """Return a row's values in a form that ``==`` can compare, which arrays are not."""
    return tuple(_flat(getattr(row, field.name)) for field in fields(row))


def _flat(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, tuple):
        return tuple(_flat(item) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return tuple(_flat(getattr(value, name)) for name in value.__dataclass_fields__)
    return value
