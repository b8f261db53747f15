"""Reads GGUF files, the format of llama.cpp: the header alone, or a plain model and tokenizer.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 2 and 3, little-endian).
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from anytalk.errors import WeightsError
from anytalk.plugins.hf.model_files import check_sizes

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ROWS = 64
"""How many rows are de-quantised at once: as many as stay in the processor's cache."""
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
    raise WeightsError(f"'{name}' is no GGUF file of version 2 or 3{found}", hint)


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


def load(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Read model (de-quantised, in eval mode) and tokenizer from a GGUF file by way of transformers."""
    folder, name = str(path.parent), path.name
    # tqdm's progress bar over the tensors ignores all of transformers' switches, so its output is dropped.
    with _read_once(), redirect_stderr(io.StringIO()):
        check_sizes(AutoConfig.from_pretrained(folder, gguf_file=name), name)
        quantised: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    config = quantised.config
    # transformers keeps calling the de-quantised model "quantised" and then refuses to cast or save it.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # The path is only valid on this machine.
    config.name_or_path = ""
    config.architectures = [type(quantised).__name__]
    plain: Any = type(quantised).from_pretrained(None, config=config, state_dict=quantised.state_dict(), dtype=dtype)
    return plain.eval(), tokenizer


class _PlainReader(gguf.GGUFReader):
    """Reads a file like `gguf`, but in plain memory: slices of numpy's memmap take ten times as long."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)


@contextmanager
def _read_once() -> Iterator[None]:
    """Patch transformers and gguf in the block, so that they read the file once and fast.

    They read it for the config, the weights and the tokenizer each, and make a table of tensor names for each module.
    Texts are read byte by byte and weights sixteen rows at a time, which is most of the loading time. If a later
    version no longer has one of these functions, loading is only slow again.
    """
    faster: list[tuple[str, str, Callable[[Any], Any]]] = [
        # One reader per file serves the config, the weights and the tokenizer.
        ("gguf", "GGUFReader", lambda _: lru_cache(maxsize=1)(_PlainReader)),
        ("gguf", "get_tensor_name_map", lru_cache(maxsize=None)),
        ("gguf.quants", "_apply_over_grouped_rows", lambda _: apply_to_rows),
        ("transformers.modeling_gguf_pytorch_utils", "_gguf_parse_value", _with_quick_texts),
    ]
    with ExitStack() as stack:
        for module, name, make in faster:
            owner = import_module(module)
            original = getattr(owner, name, None)
            if original is not None:
                stack.callback(setattr, owner, name, original)
                setattr(owner, name, make(original))
        yield


def apply_to_rows(
    func: Callable[[np.ndarray], np.ndarray], arr: np.ndarray, otype: Any, oshape: tuple[int, ...]
) -> np.ndarray:
    """Apply a function of ``gguf`` to the rows of a quantised tensor as it does itself, but to more rows at once.

    Args:
        func: Maps rows as they are stored, (n,bytes) uint8, to (n,values).
        arr: (...,bytes) uint8.
        otype: The dtype of the result.
        oshape: The shape of the result.
    """
    rows = arr.reshape(-1, arr.shape[-1])
    # (rows, values of a row)
    made = np.empty((len(rows), math.prod(oshape) // max(1, len(rows))), otype)
    for first in range(0, len(rows), _ROWS):
        made[first : first + _ROWS] = func(rows[first : first + _ROWS])
    return made.reshape(oshape)


def _with_quick_texts(parse: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def parsed(value: Any, kinds: Any) -> Any:
        # A list of texts has the kinds [array, text].
        is_text = kinds == _STRING or (isinstance(kinds, list) and kinds[-1] == _STRING)
        return bytes(value).decode() if is_text else parse(value, kinds)

    return parsed
