"""Reads the header of GGUF files, the format of llama.cpp. Imports no torch.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 2 and 3, little-endian).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from anytalk.errors import WeightsError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST = 2**20
"""The longest text or list of general metadata: real ones are far shorter, so a file that claims more is damaged."""


def read_header(path: Path) -> dict[str, Any]:
    """Return the leading scalar metadata of a GGUF file, e.g. ``general.architecture`` and ``general.license``.

    Reading stops at the first key that isn't general metadata, long before the vocabulary, so it takes microseconds.

    Raises:
        WeightsError: it isn't a GGUF file, or is cut off in its header.
    """
    hint = "download the .gguf file again"
    try:
        with path.open("rb") as file:
            start = file.read(24)
            _check_start(path.name, start)
            # Magic, version, number of tensors, number of metadata values.
            return _read_general(file, struct.unpack("<4sIQQ", start)[3])
    except (OSError, struct.error, UnicodeDecodeError) as error:
        raise WeightsError(f"the header of '{path.name}' can't be read: {error}", hint) from None


def _check_start(name: str, start: bytes) -> None:
    """Raise a WeightsError that says what the file seems to be, unless it begins like GGUF of version 2 or 3."""
    version = int.from_bytes(start[4:8], "little")
    if start[:4] == b"GGUF" and len(start) == 24 and version in (2, 3):
        return
    found, hint = "", "give a .gguf file of llama.cpp"
    if start[:4] == b"GGUF":
        found, hint = f": it is of version {version}", "convert the model again with a newer llama.cpp"
        if len(start) < 24:
            found, hint = ": it is cut off", "download the .gguf file again"
        # A small number that is read in the wrong byte order is large.
        elif version > 0xFFFF:
            found, hint = ": it is big-endian", "use a little-endian file, as most are"
    elif start.startswith(b"version https://git"):
        found, hint = ": it is the pointer of a Git LFS file", "fetch what it points at: git lfs pull"
    elif start.lstrip()[:1] == b"<":
        found, hint = ": it is a web page", "download the file itself, not the page about it"
    raise WeightsError(f"'{name}' is not a GGUF file of version 2 or 3{found}", hint)


def _read_general(file: BinaryIO, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(count):
        key = _read_string(file)
        if not key.startswith("general."):
            break
        values[key] = _read_value(file, _read_scalar(file, "I"))
    return values


def _read_value(file: BinaryIO, kind: int, is_item: bool = False) -> Any:
    if kind == _STRING:
        return _read_string(file)
    if kind in _SCALARS:
        return _read_scalar(file, _SCALARS[kind])
    if kind != _ARRAY or is_item:
        raise struct.error(f"it holds a value of the unknown type {kind}")
    item_kind, length = struct.unpack("<IQ", file.read(12))
    if length > _LONGEST:
        raise struct.error(f"it holds a list of {length} values")
    return [_read_value(file, item_kind, is_item=True) for _ in range(length)]


def _read_scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]


def _read_string(file: BinaryIO) -> str:
    length = _read_scalar(file, "Q")
    if length > _LONGEST:
        raise struct.error(f"it holds a text of {length} bytes")
    data = file.read(length)
    if len(data) < length:
        raise struct.error("it ends in the middle of a text")
    return data.decode("utf-8")
