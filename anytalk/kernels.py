"""Prepares weight matrices for decoding, where a step multiplies each by only a few rows.

======== ============================================================================ =============================
name      what it is                                                                   how exact
======== ============================================================================ =============================
fused     ``torch.nn.functional.linear`` on the weights as they are                    the reference
graphs    as ``fused``, in steps of fixed shapes that a GPU replays as one graph           the reference
packed    float32, the weights laid out once for oneDNN's blocked kernels              equal to rounding
int8      8 bit weights, one scale per output; 8 bit inputs, one scale per row         a loss that has to be measured
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
from functools import partial
from typing import cast

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
    "make_matrix",
    "make_ready",
    "peaks_of",
]

ARITHMETICS: tuple[Arithmetic, ...] = ("fused", "graphs", "packed", "int8")

# The smallest scale: it keeps a row or column of zeros from being divided by zero.
_TINY = 1e-30
_REFINED = 64
"""How many outputs of a head are computed again exactly: the likeliest token is practically always among them."""
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
        # A cache that is being read or filled counts the matrices, so they must be built in a fixed order.
        before, make = _before.get(), partial(_quantised, weight.detach().float(), peaks)
        made = make() if before is None else before.take(make)
        self.shrink = made.get("shrink")
        with warnings.catch_warnings():
            # torch deprecates quantised tensors but not their kernels, and no other kernel is as fast here.
            warnings.simplefilter("ignore", UserWarning)
            zeros = torch.zeros(self.num_outputs, dtype=torch.int64)
            quantised = torch._make_per_channel_quantized_tensor(made["weight"], made["scales"], zeros, 0)
            self.packed = torch.ops.quantized.linear_prepack(quantised, None)
        # Without VNNI, pairs of products are summed in 16 bits; 7-bit inputs can't overflow that.
        self.seven_bits = not torch.cpu._is_vnni_supported()

    def forward(self, rows: Tensor) -> Tensor:
        if self.shrink is not None:
            rows = rows * self.shrink
        if rows.numel() == rows.shape[-1]:  # one row
            # With one row, the kernel's scale for the whole input is already that row's own.
            made: Tensor = torch.ops.quantized.linear_dynamic(rows, self.packed, self.seven_bits)
            return made if self.bias is None else made + self.bias
        # Scaling each row to [-1, 1] makes the kernel's single scale right for all of them.
        largest = rows.abs().amax(dim=-1, keepdim=True).clamp_min_(_TINY)
        made = torch.ops.quantized.linear_dynamic(rows / largest, self.packed, self.seven_bits)
        return made.mul_(largest) if self.bias is None else torch.addcmul(self.bias, made, largest)


def _quantised(weight: Tensor, peaks: Tensor | None) -> dict[str, Tensor]:
    """Quantise a weight (out,in): ``weight`` int8, ``scales`` (out,) float64, ``shrink`` (in,), the inputs' factor."""
    made = {}
    if peaks is not None:
        factor = balance(weight, peaks)
        weight, made["shrink"] = weight * factor, 1 / factor
    scales = (weight.abs().amax(dim=1) / 127).clamp_min(_TINY).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        # Zero points are 0, since the quantisation is symmetric.
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        return {**made, "weight": quantised.int_repr(), "scales": scales}


class MadeBefore:
    """Holds a model's 8-bit matrices in the order in which they are built, so that a later load can skip that work.

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
        """Make every :class:`Int8Matrix` built inside the block use :meth:`take`."""
        token = _before.set(self)
        try:
            yield
        finally:
            _before.reset(token)


_before: ContextVar[MadeBefore | None] = ContextVar("_before", default=None)


class RefinedMatrix(nn.Module):
    """Multiplies by a large head in 8 bits, then computes the largest outputs again exactly, since only those matter.

    Args:
        weight: (out,in) float32; its memory is shared.
        bias: (out,).
        peaks: See :class:`Int8Matrix`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, peaks: Tensor | None = None) -> None:
        super().__init__()
        self.coarse = Int8Matrix(weight, bias, peaks)
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.num_refined = min(_REFINED, int(weight.shape[0]))

    def forward(self, rows: Tensor) -> Tensor:
        made: Tensor = self.coarse(rows)
        best = made.topk(self.num_refined, dim=-1, sorted=False).indices
        # (...,r,in) @ (...,in,1) -> (...,r): only the rows of the best outputs are multiplied again.
        exact = (self.weight[best] @ rows[..., None])[..., 0]
        if self.coarse.bias is not None:
            exact = exact + self.coarse.bias[best]
        return made.scatter_(-1, best, exact)


def _stand_in(weight: Tensor) -> nn.Parameter:
    """Return an empty parameter, for code that asks a matrix's ``weight`` for its dtype or device."""
    return nn.Parameter(weight.detach().new_empty(0), requires_grad=False)


def balance(weight: Tensor, peaks: Tensor) -> Tensor:
    """Return the SmoothQuant factors (in,): weights times these, and inputs divided by them, lose least in 8 bits.

    Args:
        weight: (out,in).
        peaks: (in,), see :class:`Int8Matrix`.
    """
    columns = weight.abs().amax(dim=0).clamp_min(1e-6)
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
        raise ConfigError("arithmetic 'int8' needs a torch with fbgemm (x86 CPUs)", "use 'packed' or 'fused'")
    return Int8Matrix(weight, bias, peaks)
