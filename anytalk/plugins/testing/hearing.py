"""Checks the promises of :class:`~anytalk.plugins.contracts.Hearing` on a few frames of noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import HeardBatch, Hearing, InputAdapter
from anytalk.plugins.registry import Registry, default_registry
from anytalk.plugins.testing.adapters import ATOL, FRAMES, tiny_context
from anytalk.plugins.testing.options import built


def check_hearing(
    name: str,
    registry: Registry | None = None,
    options: dict[str, Any] | None = None,
    context: BuildContext | None = None,
) -> None:
    """Check shapes, the number of columns, padding that changes nothing, and that there are no parameters.

    Args:
        context: What the part is built with; default: ``tiny_context()`` and the input adapter ``ctc``.
    """
    registry = registry or default_registry()
    context = context or tiny_context(registry)
    if context.input_adapter is None:
        # A hearing chooses between tokens, so the adapter must recognise some.
        adapter = registry.build("input adapter", PartRef(name="ctc"), context).eval()
        context = replace(context, input_adapter=adapter)
    adapter = context.need_input_adapter()
    part: Hearing = built("hearing", name, registry, options, context)[0].eval()
    assert isinstance(part, Hearing), f"'{name}' is a {type(part).__name__}, not a Hearing"
    assert not list(part.parameters()), f"'{name}' has parameters, which nobody would train or save"
    _check_columns(name, part, adapter, context)


@torch.no_grad()
def _check_columns(name: str, part: Hearing, adapter: InputAdapter, context: BuildContext) -> None:
    torch.manual_seed(0)
    features, lengths = torch.randn(2, FRAMES, context.need_encoder_width()), torch.tensor([FRAMES, 6])
    heard = part(features, lengths)
    assert isinstance(heard, HeardBatch), f"'{name}': forward gives a {type(heard).__name__}, expected a HeardBatch"
    expected = (2, adapter.output_length(FRAMES), context.need_backbone().width)
    assert tuple(heard.columns.shape) == expected, f"'{name}': columns are {tuple(heard.columns.shape)}, not {expected}"
    counts, most = heard.lengths.tolist(), [adapter.output_length(n) for n in lengths.tolist()]
    assert all(1 <= n <= m for n, m in zip(counts, most, strict=True)), f"'{name}': {counts} columns, {most} allowed"
    if heard.lines is not None:
        assert [len(line) for line in heard.lines] == counts, f"'{name}': lines and columns differ in number"
    for row, clip in enumerate(heard.clips()):
        (alone,) = part(features[row : row + 1, : lengths[row]], lengths[row : row + 1]).clips()
        assert clip.columns is not None
        assert alone.columns is not None
        same = clip.line == alone.line and clip.columns.shape == alone.columns.shape
        same = same and bool(torch.allclose(clip.columns, alone.columns, atol=ATOL))
        assert same, f"'{name}': a clip padded in a batch is heard differently than alone"
