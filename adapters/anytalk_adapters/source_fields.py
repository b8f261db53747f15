"""Converts values in tables to fields of rows, or says what is wrong with them; shared by the data sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anytalk.errors import DataError, did_you_mean
from anytalk.plugins.contracts import MANIFEST_FIELDS, Audio, Message, Row, Sound

Folder = Path | str | None
"""What relative paths start from: a local folder, an address, or nothing (in a hub data set)."""

ALIASES = {"audio": "question_audio", "text": "question_text"}
"""Short names of manifest fields."""

ROLES = ("system", "user", "assistant")

_LONGEST_PATH = 4096
_SHOWN = 100
"""How many letters of a path a message shows: the value may be a whole sound in base64."""


def check_names(names: Sequence[str], known: Sequence[str], where: str, word: str = "field") -> None:
    """Refuse unknown names (DataError: the first one, the nearest known name, and all known names)."""
    for name in names:
        if name not in known:
            raise DataError(
                f"{where}: unknown {word} '{name}'{did_you_mean(str(name), list(known))}",
                f"{word}s: {', '.join(known)}",
            )


def need_columns(columns: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Refuse a table without a needed column.

    Raises:
        DataError: Names the first missing column, the most similar one, and all columns.
    """
    for name in needed:
        if name not in columns:
            near = did_you_mean(name, list(columns)).replace("did you mean", "is it")
            raise DataError(
                f"{where}: column '{name}' is missing{near}", f"its columns: {', '.join(columns) or 'none'}"
            )


def text_of(value: Any, field: str, where: str) -> str | None:
    """Return text or None (DataError: the value is anything else)."""
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: field '{field}' is a {type(value).__name__}; text is expected", "quote it")
    return value


def sound_of(value: Any, field: str, where: str, folder: Folder) -> Audio | None:
    """Return a sound in any of the forms in which manifests and tables hold it.

    Args:
        value: A path, an address (with ``://``), the bytes of a sound file, or a dict of `datasets`: ``{bytes, path}``
            or ``{array, sampling_rate}``.
        folder: The folder that a relative path starts from.

    Raises:
        DataError: The file doesn't exist, or the value is of another kind.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _sound_at(value, where, folder)
    if isinstance(value, bytes):
        return Sound(name=f"{where}, {field}", data=value)
    if isinstance(value, Mapping):
        path = value.get("path")
        data = value.get("bytes")
        if isinstance(data, bytes | bytearray | list) and data:
            return Sound(name=f"{where}, {path or field}", data=_bytes_of(data, field, where))
        if data:
            raise DataError(f"{where}: field '{field}' has bytes that are a {type(data).__name__}", "give a path")
        if value.get("array") is not None:
            return _samples(value, field, where)
        if isinstance(path, str) and path:
            return _sound_at(path, where, folder)
        raise DataError(
            f"{where}: field '{field}' holds no sound (neither bytes, path nor array)",
            "leave it empty, or fix the row",
        )
    raise DataError(f"{where}: field '{field}' is a {type(value).__name__}; sound is expected", "give a path")


def _bytes_of(data: bytes | bytearray | list[Any], field: str, where: str) -> bytes:
    try:
        return bytes(data)
    except (TypeError, ValueError):
        raise DataError(
            f"{where}: field '{field}' has bytes that are not numbers from 0 to 255", "give a path"
        ) from None


def _sound_at(name: str, where: str, folder: Folder) -> Audio:
    if "://" in name:
        return Sound(name=name, url=name)
    # The manifest itself is at an address, so its relative paths are, too.
    if isinstance(folder, str):
        return Sound(name=name, url=f"{folder}/{name}")
    path = Path(name) if folder is None else folder / name
    if not name or len(name) > _LONGEST_PATH or not _is_file(path):
        beside = "a hub data set has no folder of its own" if folder is None else f"paths are relative to {folder}"
        raise DataError(f"{where}: sound file '{_short(name)}' doesn't exist", beside)
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file has such a name: it is too long, or has a NUL or half a character
        return False


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]} ..."


def _samples(value: Mapping[str, Any], field: str, where: str) -> Sound:
    rate = value.get("sampling_rate")
    if not isinstance(rate, int) or rate <= 0:
        raise DataError(f"{where}: field '{field}' has samples without a sampling_rate", "give it in Hz")
    try:
        samples = np.asarray(value["array"])
        with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite then is refused in words
            wave = samples.astype(np.float32)
    except (TypeError, ValueError):
        raise DataError(f"{where}: field '{field}' holds samples that are not numbers", "give a flat array") from None
    if wave.ndim not in (1, 2):
        raise DataError(
            f"{where}: field '{field}' has samples of {wave.ndim} dimensions; 1 or 2 are expected", "give a flat array"
        )
    if samples.dtype.kind in "iu":
        # Whole numbers are taken for 16-bit samples.
        wave = wave / 32768.0
    # `datasets` puts channels first, soundfile and Sound put them last.
    wave = wave.T if wave.ndim == 2 and wave.shape[0] < wave.shape[1] else wave
    return Sound(name=f"{where}, {field}", samples=np.ascontiguousarray(wave), sample_rate_hz=rate)


def history_of(value: Any, where: str, folder: Folder) -> tuple[Message, ...]:
    """Convert a list of ``{role, text, audio}`` (or ``content`` for ``text``) to messages.

    Raises:
        DataError: Names the turn that is wrong.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError(
            f"{where}: field 'history' is a {type(value).__name__}; a list is expected",
            'write [{"role": "user", "text": "..."}, {"role": "assistant", "text": "..."}]',
        )
    messages = []
    for number, turn in enumerate(value, start=1):
        here = f"{where}, turn {number}"
        if not isinstance(turn, Mapping):
            raise DataError(f"{here} of the history is a {type(turn).__name__}; an object is expected", "see docs")
        check_names(list(turn), ("role", "text", "audio", "content"), here)
        role = turn.get("role")
        text = text_of(turn.get("text", turn.get("content")), "text", here)
        audio = sound_of(turn.get("audio"), "audio", here, folder)
        messages.append(Message(role=str(role), text=text, audio=audio))
    check_history(messages, where)
    return tuple(messages)


def check_history(messages: Sequence[Message], where: str) -> None:
    """Check the turns before a question: perhaps a system message, then user and assistant in turn, all with content.

    Raises:
        DataError: Names the first turn that is wrong.
    """
    expected = "user"
    for number, message in enumerate(messages, start=1):
        here = f"{where}, turn {number}"
        if message.role not in ROLES:
            raise DataError(
                f"{here}: unknown role '{message.role}'{did_you_mean(message.role, list(ROLES))}",
                f"roles: {', '.join(ROLES)}",
            )
        if message.role == "system" and number == 1 and message.text:
            continue
        if message.role != expected:
            raise DataError(
                f"{here} is the {message.role}'s; the {expected}'s is expected",
                "a system message may come first, then user and assistant take turns",
            )
        if not message.text and (message.audio is None or message.role == "assistant"):
            raise DataError(f"{here} has no text", "each turn of the history needs its text (the user's: or its audio)")
        expected = "assistant" if expected == "user" else "user"
    if expected == "assistant":
        raise DataError(f"{where}: the history ends with the user's turn", "the question itself does not belong to it")


def tasks_of(value: Any, where: str) -> tuple[str, ...] | None:
    """Return task names or None (DataError: the value is no list of names, or is empty)."""
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise DataError(
            f"{where}: field 'tasks' is {value!r}; a list of task names is expected", 'write ["A1T1", "T1A1"]'
        )
    return tuple(value)


def row_of(data: Mapping[str, Any], where: str, folder: Folder) -> Row:
    """Make a row of a dict whose keys are manifest fields or their aliases.

    Raises:
        DataError: A field is unknown or given twice, or a value doesn't fit.
    """
    for short, name in ALIASES.items():
        if short in data and name in data:
            raise DataError(f"{where}: '{short}' is another name of '{name}', and both are given", "leave one out")
    fields = {ALIASES.get(key, key): value for key, value in data.items()}
    check_names(list(fields), MANIFEST_FIELDS, where)
    return Row(
        id=where,
        question_text=text_of(fields.get("question_text"), "question_text", where),
        question_audio=sound_of(fields.get("question_audio"), "question_audio", where, folder),
        answer_text=text_of(fields.get("answer_text"), "answer_text", where),
        answer_audio=sound_of(fields.get("answer_audio"), "answer_audio", where, folder),
        speaker=text_of(fields.get("speaker"), "speaker", where),
        history=history_of(fields.get("history"), where, folder),
        tasks=tasks_of(fields.get("tasks"), where),
    )
