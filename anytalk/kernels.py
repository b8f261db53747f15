"""Prepares weight matrices for decoding, where a step multiplies each by only a few rows.

======== ============================================================================ =============================
name      what it is                                                                   how exact
======== ============================================================================ =============================
fused     ``torch.nn.functional.linear`` on the weights as they are                    the reference
graphs    as ``fused``, in steps of fixed shapes that a GPU replays as one graph           the reference
packed    float32, the weights laid out once for oneDNN's blocked kernels              equal to rounding
int8      8 bit weights, one scale per output; 8 bit inputs, one scale per row         a loss that has to be measured
int4      as ``int8``, but decoders that can take single steps with 4 bit weights      a loss that has to be measured
======== ============================================================================ =============================

The layout matters because torch's float32 ``Linear`` handles few rows badly: for two rows it calls a GEMM that
rearranges the whole weight matrix in every call, and for one row a matrix-vector product with a poor access pattern.
Both take longer than the arithmetic itself. Each row has its own scale because torch's dynamic int8 product uses one
scale for its whole input: a single large value (language models have some in their first tokens) would leave two or
three bits for everything else.

With ``int8``, keys and values may be cached in bfloat16; otherwise they keep the dtype of the weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.errors import ConfigError
from anytalk.plugins.contracts import Arithmetic, MakesReady, Peaks

__all__ = [
    "ARITHMETICS",
    "Int8Matrix",
    "MadeBefore",
    "PackedMatrix",
    "PlainMatrix",
    "RefinedMatrix",
    "balance",
    "made_before",
    "make_matrix",
    "make_ready",
    "peaks_of",
]

ARITHMETICS: tuple[Arithmetic, ...] = ("fused", "graphs", "packed", "int8", "int4")

_product = getattr(torch.ops.quantized.linear_dynamic, "_op", torch.ops.quantized.linear_dynamic)
"""The product without torch's check in each call for arguments that stand for others while it compiles."""
# The smallest scale: it keeps a row or column of zeros from being divided by zero.
_TINY = 1e-30
_REFINED = 64
"""How many outputs of a head are computed again exactly: the likeliest token is practically always among them."""
_BLOCK = 64
"""How many values form a block in the search for the largest ones."""
_AT_ONCE = 2**17
"""How many weights are quantised at once: as many as stay in the processor's cache."""
_FEWEST_ROWS = 4
"""Fewer rows than this are padded: oneDNN's float32 kernels for 4 rows are faster than those for 1 or 2."""


class PlainMatrix(nn.Module):
    """Multiplies by the weights as they are, (...,in) -> (...,out), and shares their memory."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self.weight, cast("Tensor | None", self.bias))


class PackedMatrix(nn.Module):
    """Multiplies with oneDNN, (...,in) float32 -> (...,out) float32, with weights laid out for it once.

    Fewer than four rows are padded with rows of zeros, which is faster.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.num_outputs = int(weight.shape[0])
        self.weight = _stand_in(weight)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _FEWEST_ROWS)
        self.bias = None if bias is None else bias.detach().clone()

    def forward(self, rows: Tensor) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1])
        count = flat.shape[0]
        if count < _FEWEST_ROWS:
            flat = F.pad(flat, (0, 0, 0, _FEWEST_ROWS - count))
        made: Tensor = torch.ops.mkldnn._linear_pointwise(flat, self.packed, self.bias, "none", [], "")  # no activation
        return made[:count].view(*rows.shape[:-1], self.num_outputs)


class Int8Matrix(nn.Module):
    """Multiplies 8-bit integers with fbgemm, (...,in) float32 -> (...,out) float32.

    Weights are quantised symmetrically, with one scale per output; inputs with one scale per row, found at run time.

    Args:
        weight: (out,in).
        bias: (out,).
        peaks: (in,), the largest magnitude seen at each input. Inputs are divided and weights multiplied by the same
            factor per input, so that large inputs and large weights share the error of 8 bits (SmoothQuant,
            arXiv 2211.10438, with alpha 0.5).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, peaks: Tensor | None = None) -> None:
        super().__init__()
        self.num_outputs = int(weight.shape[0])
        self.weight = _stand_in(weight)
        self.bias = None if bias is None else bias.detach().clone()
        made = made_before(partial(_quantised, weight.detach(), peaks))
        self.shrink = made.get("shrink")
        self.packed = _packed(made["weight"], made["scales"])
        # Where pairs of products are summed in 16 bits, 7-bit inputs can't overflow that.
        self.seven_bits = _adds_in_16_bits()

    def forward(self, rows: Tensor) -> Tensor:
        if self.shrink is not None:
            rows = rows * self.shrink
        if rows.numel() == rows.shape[-1]:  # one row
            # With one row, the kernel's scale for the whole input is already that row's own.
            made: Tensor = _product(rows, self.packed, self.seven_bits)
            return made if self.bias is None else made + self.bias
        # Scaling each row to [-1, 1] makes the kernel's single scale right for all of them.
        largest = rows.abs().amax(dim=-1, keepdim=True).clamp_min_(_TINY)
        made = _product(rows / largest, self.packed, self.seven_bits)
        return made.mul_(largest) if self.bias is None else torch.addcmul(self.bias, made, largest)


def _packed(weight: Tensor, scales: Tensor) -> Any:
    """Lay out (out,in) int8 and its scales (out,) float64 for fbgemm."""
    with warnings.catch_warnings():
        # torch deprecates quantised tensors but not their kernels, and no other kernel is as fast here.
        warnings.simplefilter("ignore", UserWarning)
        # Zero points are 0, since the quantisation is symmetric.
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        quantised = torch._make_per_channel_quantized_tensor(weight, scales, zeros, 0)
        return torch.ops.quantized.linear_prepack(quantised, None)


@cache
def _adds_in_16_bits() -> bool:
    """Return whether fbgemm adds pairs of products in 16 bits, which the largest ones overflow.

    It does without VNNI, also where ``FBGEMM_ENABLE_INSTRUCTIONS`` forbids that, so a product tells and not the
    processor.
    """
    packed = _packed(torch.full((8, 64), 127, dtype=torch.int8), torch.ones(8, dtype=torch.float64))
    return bool(_product(torch.ones(1, 64), packed, False).min() < 0.9 * 127 * 64)


def _quantised(weight: Tensor, peaks: Tensor | None) -> dict[str, Tensor]:
    """Quantise a weight (out,in): ``weight`` int8, ``scales`` (out,) float64, ``shrink`` (in,), the inputs' factor.

    It makes what ``torch.quantize_per_channel`` makes, a few rows at a time: a head is half a gigabyte, and new memory
    for each operation on all of it costs more than the operations.
    """
    factor = None if peaks is None else balance(weight, peaks)
    whole = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.empty(len(weight), device=weight.device)
    count = max(1, _AT_ONCE // weight.shape[1])
    with _one_thread():
        for first in range(0, len(weight), count):
            rows = weight[first : first + count].float()
            grown = rows if factor is None else rows * factor
            scale = (grown.abs().amax(dim=1) / 127).clamp_min_(_TINY)
            scales[first : first + count] = scale
            whole[first : first + count] = (grown * scale.reciprocal()[:, None]).round_()
    made = {"weight": whole, "scales": scales.double()}
    return made if factor is None else {**made, "shrink": 1 / factor}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on one thread: two wait for each other after each operation, on a busy machine for long."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


class MadeBefore:
    """Holds a model's quantised matrices in the order in which they are built, so that a later load can skip that work.

    Args:
        tensors: The tensors of all matrices, named ``NUMBER.TENSOR``; None to quantise and collect them.
    """

    def __init__(self, tensors: dict[str, Tensor] | None = None) -> None:
        self.tensors = tensors or {}
        self._is_whole = tensors is not None
        self._count = 0

    def take(self, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the next matrix, either from here or by calling `make` and keeping its result."""
        front = f"{self._count}."
        self._count += 1
        if self._is_whole:
            return {name.removeprefix(front): t for name, t in self.tensors.items() if name.startswith(front)}
        made = make()
        self.tensors |= {front + name: tensor for name, tensor in made.items()}
        return made

    @contextmanager
    def used(self) -> Iterator[None]:
        """Make every quantised matrix built inside the block use :meth:`take`."""
        token = _before.set(self)
        try:
            yield
        finally:
            _before.reset(token)


_before: ContextVar[MadeBefore | None] = ContextVar("_before", default=None)


def made_before(make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of the next quantised matrix from the cache in use, or make them.

    A cache that is being read or filled counts the matrices, so they must be built in a fixed order.
    """
    before = _before.get()
    return make() if before is None else before.take(make)


class RefinedMatrix(nn.Module):
    """Multiplies by a large head in few bits, then computes the largest outputs again exactly: only those matter.

    Args:
        weight: (out,in) float32; its memory is shared.
        coarse: Multiplies less exactly and adds its attribute ``bias``: an :class:`Int8Matrix`, for example.
    """

    def __init__(self, weight: Tensor, coarse: nn.Module) -> None:
        super().__init__()
        self.coarse = coarse
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.num_refined = min(_REFINED, int(weight.shape[0]))

    def forward(self, rows: Tensor) -> Tensor:
        made: Tensor = self.coarse(rows)
        best = _largest(made, self.num_refined)
        # (...,r,in) @ (...,in,1) -> (...,r): only the rows of the best outputs are multiplied again.
        exact = (self.weight[best] @ rows[..., None])[..., 0]
        bias = cast("Tensor | None", self.coarse.bias)
        if bias is not None:
            exact = exact + bias[best]
        return made.scatter_(-1, best, exact)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return where the largest values are, (...,n) -> (...,count), in any order.

    They lie in the blocks with the largest maxima, of which there are as many: so most values are looked at once.
    """
    num_blocks = values.shape[-1] // _BLOCK
    if num_blocks < 4 * count:
        return values.topk(count, dim=-1, sorted=False).indices
    blocks = values[..., : num_blocks * _BLOCK].reshape(*values.shape[:-1], num_blocks, _BLOCK)
    rest = torch.arange(num_blocks * _BLOCK, values.shape[-1], device=values.device)
    first = blocks.amax(dim=-1).topk(count, dim=-1, sorted=False).indices[..., None] * _BLOCK
    places = (first + torch.arange(_BLOCK, device=values.device)).flatten(-2)
    places = torch.cat([places, rest.expand(*places.shape[:-1], -1)], dim=-1)
    return places.gather(-1, values.gather(-1, places).topk(count, dim=-1, sorted=False).indices)


def _stand_in(weight: Tensor) -> nn.Parameter:
    """Return an empty parameter, for code that asks a matrix's ``weight`` for its dtype or device."""
    return nn.Parameter(weight.detach().new_empty(0), requires_grad=False)


def balance(weight: Tensor, peaks: Tensor) -> Tensor:
    """Return the SmoothQuant factors (in,): weights times these, and inputs divided by them, lose least in 8 bits.

    Args:
        weight: (out,in).
        peaks: (in,), see :class:`Int8Matrix`.
    """
    # The largest magnitudes, without a copy of the weights.
    columns = torch.maximum(weight.amax(dim=0), -weight.amin(dim=0)).float().clamp_min(1e-6)
    # SmoothQuant's formula with alpha 0.5, where both exponents are one half.
    factor = (peaks.float().clamp_min(1e-6) / columns).sqrt()
    # Dividing by the geometric mean keeps the overall magnitude of weights and inputs.
    return factor / factor.log().mean().exp()


@contextmanager
def peaks_of(module: nn.Module) -> Iterator[Peaks]:
    """Record the largest magnitude at each input of every ``nn.Linear`` inside a module while the block runs, (in,)."""
    peaks: Peaks = {}

    def look(linear: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen = args[0].detach().reshape(-1, args[0].shape[-1]).abs().amax(dim=0)
        peaks[linear] = torch.maximum(peaks[linear], seen) if linear in peaks else seen

    handles = [m.register_forward_pre_hook(look) for m in module.modules() if isinstance(m, nn.Linear)]
    try:
        yield peaks
    finally:
        for handle in handles:
            handle.remove()


def make_ready(module: nn.Module, arithmetic: Arithmetic, peaks: Peaks) -> None:
    """Replace every ``nn.Linear`` inside a module by a matrix for decoding; the module can't be trained afterwards.

    Modules that implement :class:`~anytalk.plugins.contracts.MakesReady` prepare themselves. Subclasses of
    ``nn.Linear`` are left alone, since they may use their weight in their own way.

    Args:
        module: The module whose linear layers are replaced in place.
        arithmetic: How the matrices are multiplied.
        peaks: The result of :func:`peaks_of`; linear layers without an entry are not balanced.

    Raises:
        ConfigError: see :func:`make_matrix`.
    """
    if isinstance(module, MakesReady):
        module.make_ready(arithmetic, peaks)
        return
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, make_matrix(arithmetic, child.weight, child.bias, peaks.get(child)))
        else:
            make_ready(child, arithmetic, peaks)


def make_matrix(
    arithmetic: Arithmetic, weight: Tensor, bias: Tensor | None = None, peaks: Tensor | None = None
) -> nn.Module:
    """Prepare one matrix (out,in) with its bias (out,); all but ``fused`` and ``graphs`` need float32 on the CPU.

    Args:
        arithmetic: One of :data:`ARITHMETICS`.
        weight: (out,in).
        bias: (out,).
        peaks: See :class:`Int8Matrix`.

    Raises:
        ConfigError: An unknown arithmetic, or one that this torch or these weights don't allow.
    """
    if arithmetic in ("fused", "graphs"):
        return PlainMatrix(weight, bias)
    if arithmetic not in ARITHMETICS:
        raise ConfigError(f"unknown arithmetic '{arithmetic}'", f"use one of: {', '.join(ARITHMETICS)}")
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ConfigError(
            f"arithmetic '{arithmetic}' is for float32 weights on a CPU; these are {weight.dtype} on {weight.device}",
            "use 'fused' there",
        )
    if arithmetic == "packed":
        if not torch._C._has_mkldnn:
            raise ConfigError("arithmetic 'packed' needs a torch with oneDNN", "use 'fused', or another torch")
        return PackedMatrix(weight, bias)
    if not {"fbgemm", "x86"} & set(torch.backends.quantized.supported_engines):
        raise ConfigError(f"arithmetic '{arithmetic}' needs a torch with fbgemm (x86 CPUs)", "use 'packed' or 'fused'")
    return Int8Matrix(weight, bias, peaks)
