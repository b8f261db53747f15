"""Makes transformers and ``gguf`` read a GGUF file once, and quickly.

By themselves they read it three times (config, weights, tokenizer), build a table of tensor names for each module,
read strings byte by byte, and dequantise sixteen rows at a time, which is most of the loading time. If a later version
does these things elsewhere, loading becomes slow again but stays correct.
"""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any

import gguf
import numpy as np

_STRING, _ARRAY = int(gguf.GGUFValueType.STRING), int(gguf.GGUFValueType.ARRAY)
_ROWS = 64
"""How many rows are dequantised at once; this many fit in the processor's cache."""
_NIBBLES = np.uint64(0x0F0F0F0F0F0F0F0F)
_FIFTH = np.where(np.arange(256)[:, None] >> np.arange(8) & 1, 0, 0xF0).astype(np.uint8).view(np.uint64)[:, 0]
"""Maps a byte of fifth bits to what it adds to eight values: 0 for a set bit, -16 for a clear one."""
_READING = "transformers.modeling_gguf_pytorch_utils"


@contextmanager
def read_once() -> Iterator[None]:
    """Patch both libraries inside the ``with`` block."""
    faster: list[tuple[str, str, Callable[[Any], Any]]] = [
        ("gguf", "GGUFReader", lambda _: lru_cache(maxsize=1)(PlainReader)),
        ("gguf", "get_tensor_name_map", lru_cache(maxsize=None)),
        ("gguf.quants", "_apply_over_grouped_rows", lambda _: apply_to_rows),
        (_READING, "_gguf_parse_value", _with_quick_texts),
        (_READING, "load_gguf_checkpoint", _with_memory),
    ]
    with ExitStack() as stack:
        for module, name, make in faster:
            owner = import_module(module)
            original = getattr(owner, name, None)
            if original is not None:
                stack.callback(setattr, owner, name, original)
                setattr(owner, name, make(original))
        yield


class PlainReader(gguf.GGUFReader):
    """Reads a file as ``gguf`` does, on plain memory (slices of numpy's memmap cost ten times as much), and lists in
    one go."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
        """Return the size of a value in bytes, its parts, which of them are data, and its types."""
        found = self._list_at(orig_offs) if raw_type == _ARRAY and self.byte_order == "I" else None
        return super()._get_field_parts(orig_offs, raw_type) if found is None else found

    def _list_at(self, first: int) -> tuple[int, list[Any], list[int], list[Any]] | None:
        """Do the same for a list of strings or numbers; return None if it is empty or holds something else.

        Raises:
            struct.error, ValueError: the list is longer than the file.
        """
        kind, count = self._get(first, np.uint32), self._get(first + 4, np.uint64)
        dtype = {int(key): found for key, found in self.gguf_scalar_to_np.items()}.get(int(kind[0]))
        at, number = first + 12, int(count[0])
        parts: list[Any]
        if not number:
            return None
        if dtype is not None:
            items = self._get(at, dtype, number)
            parts, at = list(items.reshape(number, 1)), at + items.nbytes
        elif kind[0] == _STRING:
            parts, whole, length_at = [], self.data.data, struct.Struct("<Q").unpack_from
            for _ in range(number):
                at += 8 + (length := length_at(whole, at)[0])
                parts.append(whole[at - length : at])
        else:
            return None
        types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(int(kind[0]))]
        return at - first, [kind, count, *parts], list(range(2, 2 + number)), types


def apply_to_rows(
    func: Callable[[np.ndarray], np.ndarray], arr: np.ndarray, otype: Any, oshape: tuple[int, ...]
) -> np.ndarray:
    """Apply a function to the rows of a quantised tensor as ``gguf`` does, but to more rows at once and without a copy.

    Args:
        func: Turns stored rows (n,bytes) uint8 into (n,values).
        arr: (...,bytes) uint8.
        otype: Dtype of the result.
        oshape: Shape of the result.
    """
    rows = arr.reshape(-1, arr.shape[-1])
    made = np.empty((len(rows), math.prod(oshape) // max(1, len(rows))), otype)
    for first in range(0, len(rows), _ROWS):
        made[first : first + _ROWS] = func(rows[first : first + _ROWS])
    return made.reshape(oshape)


def dequantized(tensor: gguf.ReaderTensor) -> Iterator[np.ndarray]:
    """Yield the values of a tensor, (n,in) float32, some rows at a time; they equal those of ``gguf``."""
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    quick = tensor.tensor_type == gguf.GGMLQuantizationType.Q5_0
    for first in range(0, len(rows), _ROWS):
        part = rows[first : first + _ROWS]
        yield _of_five_bits(part) if quick else gguf.dequantize(part, tensor.tensor_type)


def whole(tensor: gguf.ReaderTensor) -> np.ndarray:
    """Return all values of a tensor in its own shape, float32."""
    made = np.empty([int(size) for size in tensor.shape[::-1]], np.float32)
    rows, at = made.reshape(-1, made.shape[-1]), 0
    for part in dequantized(tensor):
        rows[at : at + len(part)], at = part, at + len(part)
    return made


def _of_five_bits(rows: np.ndarray) -> np.ndarray:
    """Dequantise rows of Q5_0, (n,bytes) uint8, to (n,values) float32.

    A block is a scale (float16), the fifth bits of its 32 values, then their lower four bits, two in a byte. Eight
    values are handled as one number; a value whose fifth bit isn't set is 16 less.
    """
    blocks = rows.reshape(-1, 22)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    low = blocks[:, 6:].copy().view(np.uint64)
    values = _FIFTH.take(blocks[:, 2:6])
    values[:, :2] |= low & _NIBBLES
    values[:, 2:] |= (low >> np.uint64(4)) & _NIBBLES
    made = values.view(np.int8).astype(np.float32)
    made *= scales
    return made.reshape(len(rows), -1)


def _with_quick_texts(parse: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def parsed(value: Any, kinds: Any) -> Any:
        is_text = kinds == _STRING or (isinstance(kinds, list) and kinds[-1] == _STRING)
        return bytes(value).decode() if is_text else parse(value, kinds)

    return parsed


def _with_memory(load: Callable[..., Any]) -> Callable[..., Any]:
    """Remember the file's metadata, which transformers reads for the config and again for the tokenizer."""
    told: dict[str, Any] = {}

    def loaded(path: Any, return_tensors: bool = False, **more: Any) -> Any:
        if return_tensors:
            return load(path, return_tensors=True, **more)
        if str(path) not in told:
            told[str(path)] = load(path, return_tensors=False)["config"]
        return {"config": copy.deepcopy(told[str(path)])}

    return loaded
