"""Reads Whisper weights from CTranslate2's ``model.bin``, the format in which faster-whisper distributes them.

It only parses bytes into tensors. Layout of format version 6, little-endian: uint32 version; string spec; uint32
revision; uint32 count; for each variable a string name, uint8 rank, uint32 dims, uint8 dtype, uint32 byte length and
the data; then a uint32 count of aliases and a pair of strings for each. A string has a uint16 length that includes its
final NUL. Attention is stored fused: ``linear_0`` holds q, k and v of self-attention, or only q of cross-attention,
whose ``linear_1`` holds k and v; the last linear layer is the output projection.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anytalk.errors import WeightsError

FORMAT_VERSION = 6
WHISPER_SPEC = "WhisperSpec"
# The index is the file's dtype code.
_DTYPES = (np.dtype("<f4"), np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4"), np.dtype("<f2"))
_BROKEN_HINT = "is the file complete? copy it again; pieces must be named in order (package:A/x+B/y)"


@dataclass(frozen=True)
class CTranslate2File:
    """Holds the content of a ``model.bin``."""

    spec: str  # kind of model, such as `"WhisperSpec"`
    variables: Mapping[str, np.ndarray]  # read-only arrays by name, in the file's own dtype, with aliases resolved


class _Cursor:
    """Reads bytes from front to back; raises WeightsError if they end too early."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content = content
        self.name = name
        self.position = 0

    def broken(self, what: str) -> WeightsError:
        return WeightsError(f"'{self.name}' is not a complete CTranslate2 model: {what}", _BROKEN_HINT)

    def take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self.content):
            raise self.broken(f"it ends after {len(self.content)} bytes, byte {end} was expected")
        piece = memoryview(self.content)[self.position : end]
        self.position = end
        return piece

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def string(self) -> str:
        raw = bytes(self.take(self.uint(2)))
        if not raw.endswith(b"\0"):
            raise self.broken(f"no text ends at byte {self.position}")
        try:
            return raw[:-1].decode()
        except UnicodeDecodeError:
            raise self.broken(f"no text ends at byte {self.position}") from None

    def array(self) -> np.ndarray:
        dims = struct.unpack(f"<{(rank := self.uint(1))}I", self.take(4 * rank))
        code = self.uint(1)
        if code >= len(_DTYPES):
            raise self.broken(f"dtype {code} at byte {self.position} is unknown")
        dtype, size = _DTYPES[code], self.uint(4)
        if size != math.prod(dims) * dtype.itemsize:
            raise self.broken(f"shape {dims} doesn't fit {size} bytes at byte {self.position}")
        return np.frombuffer(self.take(size), dtype).reshape(dims)


def parse_ctranslate2(content: bytes, name: str) -> CTranslate2File:
    """Parse a whole ``model.bin`` (WeightsError: it is truncated, or of another format or version)."""
    cursor = _Cursor(content, name)
    version = cursor.uint(4)
    if version != FORMAT_VERSION:
        raise cursor.broken(f"it begins with version {version}, {FORMAT_VERSION} was expected")
    spec = cursor.string()
    cursor.uint(4)  # the spec's revision; the tensors' names and shapes are enough
    variables = {}
    for _ in range(cursor.uint(4)):
        variable = cursor.string()
        variables[variable] = cursor.array()
    for _ in range(cursor.uint(4)):
        alias, target = cursor.string(), cursor.string()
        if target not in variables:
            raise cursor.broken(f"alias '{alias}' names '{target}', which it doesn't hold")
        variables[alias] = variables[target]
    return CTranslate2File(spec, variables)


def whisper_state_dict(file: CTranslate2File, name: str) -> dict[str, Tensor]:
    """Convert a parsed model to the state dict of openai-whisper's ``Whisper`` module.

    Args:
        file: A parsed model with the spec ``WhisperSpec``.

    Returns:
        Encoder and decoder in float32, in new memory.

    Raises:
        WeightsError: It is another kind of model, or a tensor is missing.
    """
    if file.spec != WHISPER_SPEC:
        raise WeightsError(f"'{name}' holds a {file.spec}, a {WHISPER_SPEC} was expected", "give a Whisper model")
    try:
        return _encoder(file.variables) | _decoder(file.variables)
    except KeyError as error:
        raise WeightsError(
            f"'{name}' lacks the tensor {error}", "expected an encoder and a decoder of Whisper"
        ) from None


def _float32(variables: Mapping[str, np.ndarray], key: str) -> Tensor:
    """Return a tensor in float32; int8 and int16 values are divided by their scale, one per row or one for all."""
    stored = variables[key]
    values = torch.from_numpy(stored.astype(np.float32))
    if np.issubdtype(stored.dtype, np.integer):
        scale = torch.from_numpy(variables[f"{key}_scale"].astype(np.float32))
        values = values / scale.reshape(scale.shape + (1,) * (values.ndim - scale.ndim))
    return values


def _pair(variables: Mapping[str, np.ndarray], source: str, target: str) -> dict[str, Tensor]:
    return {f"{target}.{leaf}": _float32(variables, f"{source}/{leaf}") for leaf in ("weight", "bias")}


def _norm(variables: Mapping[str, np.ndarray], source: str, target: str) -> dict[str, Tensor]:
    return {
        f"{target}.weight": _float32(variables, f"{source}/gamma"),
        f"{target}.bias": _float32(variables, f"{source}/beta"),
    }


def _fused(
    variables: Mapping[str, np.ndarray], source: str, target: str, members: tuple[str, ...]
) -> dict[str, Tensor]:
    """Split a fused linear layer into equal layers with these names."""
    tensors: dict[str, Tensor] = {}
    for leaf in ("weight", "bias"):
        rows = _float32(variables, f"{source}/{leaf}").chunk(len(members))
        tensors |= {f"{target}.{member}.{leaf}": part.clone() for member, part in zip(members, rows, strict=True)}
    # Whisper's key projection has no bias; the stored one is zero.
    tensors.pop(f"{target}.key.bias", None)
    return tensors


def _attention(variables: Mapping[str, np.ndarray], source: str, target: str, cross: bool) -> dict[str, Tensor]:
    groups: tuple[tuple[str, ...], ...] = (("query", "key", "value"), ("out",))
    if cross:
        groups = (("query",), ("key", "value"), ("out",))
    tensors = _norm(variables, f"{source}/layer_norm", f"{target}_ln")
    for index, members in enumerate(groups):
        tensors |= _fused(variables, f"{source}/linear_{index}", target, members)
    return tensors


def _block(variables: Mapping[str, np.ndarray], source: str, target: str) -> dict[str, Tensor]:
    return (
        _attention(variables, f"{source}/self_attention", f"{target}.attn", cross=False)
        | _norm(variables, f"{source}/ffn/layer_norm", f"{target}.mlp_ln")
        | _pair(variables, f"{source}/ffn/linear_0", f"{target}.mlp.0")
        | _pair(variables, f"{source}/ffn/linear_1", f"{target}.mlp.2")
    )


def _num_layers(variables: Mapping[str, np.ndarray], side: str) -> int:
    prefix = f"{side}/layer_"
    numbers = (name[len(prefix) :].partition("/")[0] for name in variables if name.startswith(prefix))
    return len({number for number in numbers if number.isdigit()})


def _encoder(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    tensors = {"encoder.positional_embedding": _float32(variables, "encoder/position_encodings/encodings")}
    tensors |= _pair(variables, "encoder/conv1", "encoder.conv1") | _pair(variables, "encoder/conv2", "encoder.conv2")
    for index in range(_num_layers(variables, "encoder")):
        tensors |= _block(variables, f"encoder/layer_{index}", f"encoder.blocks.{index}")
    return tensors | _norm(variables, "encoder/layer_norm", "encoder.ln_post")


def _decoder(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    tensors = {
        "decoder.token_embedding.weight": _float32(variables, "decoder/embeddings/weight"),
        "decoder.positional_embedding": _float32(variables, "decoder/position_encodings/encodings"),
    }
    for index in range(_num_layers(variables, "decoder")):
        source, target = f"decoder/layer_{index}", f"decoder.blocks.{index}"
        tensors |= _block(variables, source, target)
        tensors |= _attention(variables, f"{source}/attention", f"{target}.cross_attn", cross=True)
    return tensors | _norm(variables, "decoder/layer_norm", "decoder.ln")
