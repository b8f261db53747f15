"""Checks the parts between encoder, backbone and codec: input adapters, output adapters, heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import (
    END_OF_TEXT,
    NO_TEXT,
    AudioTables,
    BackboneAdapter,
    BackboneStates,
    Cache,
    Heads,
    HeardBatch,
    InputAdapter,
    OutputAdapter,
    SpeechDecoder,
)
from anytalk.plugins.registry import Registry, default_registry
from anytalk.plugins.testing.options import built

STEPS = 7
FRAMES = 13
NUM_STREAMS = 3
NUM_CODES = 16
NUM_SPECIALS = 4
ATOL = 1e-4
"""The largest difference that float32 results may show when the same arithmetic runs in another order."""


def tiny_context(registry: Registry | None = None) -> BuildContext:
    """Build a context with the ``tiny`` backbone and speech encoder, and 3 streams of 16 codes and 4 specials."""
    registry = registry or default_registry()
    backbone = registry.build("backbone", PartRef(name="tiny"))
    return BuildContext(
        backbone=backbone,
        audio_width=backbone.width,
        encoder_width=registry.build("speech encoder", PartRef(name="tiny")).width,
        num_streams=NUM_STREAMS,
        stream_vocab_size=NUM_CODES + NUM_SPECIALS,
    )


def check_input_adapter(
    name_or_part: str | InputAdapter,
    registry: Registry | None = None,
    options: dict[str, Any] | None = None,
    context: BuildContext | None = None,
) -> None:
    """Check shapes, lengths that grow with frames, padding that changes nothing, finite values and gradients.

    An adapter whose columns carry no gradient must bring its own loss.

    Args:
        context: What the part is built with; default: :func:`tiny_context`.
    """
    context = context or tiny_context(registry)
    part, name = built("input adapter", name_or_part, registry, options, context)
    part.eval()
    assert isinstance(part, InputAdapter), f"{name} is a {type(part).__name__}, not an InputAdapter"
    width = context.need_encoder_width()
    counts = [part.output_length(n) for n in range(1, 4 * FRAMES)]
    assert all(type(n) is int and n >= 1 for n in counts), (
        f"{name}: output_length must be an int of at least 1: {counts}"
    )
    assert counts == sorted(counts), f"{name}: output_length must not shrink as frames grow, got {counts}"

    torch.manual_seed(0)
    features = torch.randn(2, FRAMES, width)
    lengths = torch.tensor([FRAMES, 6])
    # A leaf, so that its gradient is kept and can be looked at.
    leaf = features.clone().requires_grad_()
    heard = part(leaf, lengths)
    assert isinstance(heard, HeardBatch), f"{name}: forward gives a {type(heard).__name__}, expected a HeardBatch"
    columns, kept, lines = heard
    expected = (2, part.output_length(FRAMES), context.need_backbone().width)
    assert tuple(columns.shape) == expected, f"{name}: columns are {tuple(columns.shape)}, expected {expected}"
    assert columns.dtype.is_floating_point, f"{name}: columns are {columns.dtype}, expected a floating dtype"
    wanted = [part.output_length(int(n)) for n in lengths]
    if part.is_elastic:
        assert all(1 <= n <= most for n, most in zip(kept.tolist(), wanted, strict=True)), (
            f"{name}: forward counts {kept.tolist()} columns, output_length allows {wanted}"
        )
    else:
        assert kept.tolist() == wanted, f"{name}: forward counts {kept.tolist()} columns, output_length says {wanted}"
    assert kept.dtype == torch.int64, f"{name}: column counts are {kept.dtype}, expected torch.int64"
    assert torch.isfinite(columns).all(), f"{name}: some columns are not finite"
    if lines is not None:
        counts = [len(line) for line in lines]
        assert counts == kept.tolist(), f"{name}: lines of {counts} tokens for {kept.tolist()} columns"

    if columns.requires_grad:
        # Squares, because the sum of a normed vector may be constant.
        torch.autograd.backward(_mask(columns, kept).square().sum())
        assert leaf.grad is not None, f"{name}: no gradient reaches the features"
        assert (leaf.grad[0].abs().sum(-1) > 0).all(), f"{name}: some frame has no influence on any column"
        for parameter_name, parameter in part.named_parameters():
            assert parameter.grad is not None, f"{name}: no gradient reaches '{parameter_name}'"
    else:  # it gives tokens, whose embeddings carry no gradient
        assert part.losses(), f"{name}: no gradient reaches the features, and it brings no loss of its own"

    with torch.no_grad():
        dirty = features.clone()
        # Padding can hold anything; here it is far outside the range of features.
        dirty[1, 6:] = 1e3
        after = part(dirty, lengths).columns
        _same(_mask(after, kept), _mask(columns, kept), f"{name}: frames beyond a row's length change its columns")
        alone = part(features[1:, :6], lengths[1:]).columns
        _same(alone, columns[1:, : wanted[1]], f"{name}: a row padded in a batch differs from the row alone")


def check_output_adapter(
    name_or_part: str | OutputAdapter,
    registry: Registry | None = None,
    options: dict[str, Any] | None = None,
    context: BuildContext | None = None,
) -> None:
    """Check shapes, causality, caching (with ``keep_rows`` and ``crop``), gradients, and the fit to other backbones.

    An adapter with its own route has its own signatures, so only its width and its fit are checked.
    """
    context = context or tiny_context(registry)
    part, name = built("output adapter", name_or_part, registry, options, context)
    part.eval()
    assert isinstance(part, OutputAdapter), f"{name} is a {type(part).__name__}, not an OutputAdapter"
    assert type(part.width) is int, f"{name}: width must be an int, got {part.width!r}"
    assert part.width >= 1, f"{name}: width is {part.width}"
    if part.fits_any_backbone and isinstance(name_or_part, str):
        _check_fit(
            name, part, PartRef(name=name_or_part, options=options or {}), registry or default_registry(), context
        )
    if part.own_route() is not None:
        return
    assert isinstance(part, BackboneAdapter | SpeechDecoder), (
        f"{name} must be a BackboneAdapter or a SpeechDecoder, or give an own_route()"
    )
    backbone_width = context.need_backbone().width
    torch.manual_seed(0)
    # The first are the states pre_norm and normed, the second what a speech decoder is fed.
    states, audio = torch.randn(2, 2, STEPS, backbone_width), torch.randn(2, STEPS, part.width)
    if isinstance(part, BackboneAdapter):
        assert part.width == backbone_width, f"{name}: width is {part.width}, that of the backbone {backbone_width}"
        _check_steps(name, part, lambda cache, *given: part(BackboneStates(*given), cache), (states[0], states[1]))
        return
    # (2,T), the answers' tokens: the first ends early, the second has a gap.
    text = torch.full((2, STEPS), NO_TEXT)
    text[0, :4] = torch.tensor([3, 1, 2, END_OF_TEXT])
    text[1, :5] = torch.tensor([2, NO_TEXT, 4, 1, 3])

    def decode(cache: Cache | None, audio: Tensor, ids: Tensor, *rest: Tensor) -> Tensor:
        return cast("Tensor", part(audio, ids, BackboneStates(*rest) if part.reads_states else None, cache))

    _check_steps(name, part, decode, (audio, text, states[0], states[1]))


def _check_fit(name: str, part: OutputAdapter, ref: PartRef, registry: Registry, context: BuildContext) -> None:
    """Check that an adapter that fits any backbone has the same tensors with a wider one."""
    width = 2 * context.need_backbone().width
    wider = registry.build("backbone", PartRef(name="tiny", options={"width": width}))
    shapes, others = (
        {key: tuple(tensor.shape) for key, tensor in built.state_dict().items()}
        for built in (part, registry.build("output adapter", ref, replace(context, backbone=wider)))
    )
    differing = [key for key in shapes if others.get(key) != shapes[key]]
    assert not differing, f"{name}: fits_any_backbone is True, but the backbone's width changes {', '.join(differing)}"


def _check_steps(name: str, part: OutputAdapter, read: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    """Check shapes, gradients, causality and caches of `read(cache, *inputs)`; inputs are (2,T,...) each."""
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    whole = read(None, *leaves)
    shape = (2, STEPS, part.width)
    assert tuple(whole.shape) == shape, f"{name}: output is {tuple(whole.shape)}, expected {shape}"
    assert torch.isfinite(whole).all(), f"{name}: some outputs are not finite"
    torch.autograd.backward(whole.square().sum())
    reached = [x.grad is not None and bool(x.grad.abs().sum() > 0) for x in leaves if x.is_floating_point()]
    if isinstance(part, BackboneAdapter) or (isinstance(part, SpeechDecoder) and part.reads_states):
        assert any(reached[-2:]), f"{name}: no gradient reaches the states"
    assert any(reached), f"{name}: no gradient reaches the input"
    whole = whole.detach()
    with torch.no_grad():
        # Only the last step differs, so earlier outputs must stay.
        later = [x.clone() for x in inputs]
        for x in later:
            if x.is_floating_point():
                x[:, -1] += 1.0
        _same(read(None, *later)[:, :-1], whole[:, :-1], f"{name}: a later step changes an earlier output (not causal)")
        cache = part.new_cache(2, STEPS)
        pieces = [read(cache, *(x[:, a:b] for x in inputs)) for a, b in ((0, 3), (3, 4), (4, STEPS))]
        _same(torch.cat(pieces, dim=1), whole, f"{name}: outputs with a cache differ from outputs without")
        if cache is not None:
            _check_cache(name, cache, read, inputs, whole)


def _check_cache(
    name: str, cache: Cache, read: Callable[..., Tensor], inputs: tuple[Tensor, ...], whole: Tensor
) -> None:
    """Check that `read` continues rightly from a `cache` that holds all steps of `inputs` (2,T,...) each."""
    assert cache.length == STEPS, f"{name}: cache.length is {cache.length} after {STEPS} steps"
    cache.crop(4)
    assert cache.length == 4, f"{name}: cache.length is {cache.length} after crop(4)"
    pieces = [x[:, 4:6] for x in inputs]
    _same(read(cache, *pieces), whole[:, 4:6], f"{name}: after crop() the cache goes on differently")
    cache.keep_rows([1])
    pieces = [x[1:, 6:] for x in inputs]
    _same(read(cache, *pieces), whole[1:, 6:], f"{name}: after keep_rows([1]) row 1 goes on differently")


def check_heads(
    name_or_part: str | Heads,
    registry: Registry | None = None,
    options: dict[str, Any] | None = None,
    context: BuildContext | None = None,
) -> None:
    """Check shapes, that steps don't affect each other, and gradients to hidden states and what the heads learn."""
    context = context or tiny_context(registry)
    part, name = built("heads", name_or_part, registry, options, context)
    part.eval()
    assert isinstance(part, Heads), f"{name} is a {type(part).__name__}, not Heads"
    streams, rows, width = context.num_streams, context.stream_vocab_size, context.need_audio_width()
    codes = min(NUM_CODES, rows - 1)
    torch.manual_seed(0)
    tables = AudioTables(
        codes=torch.randn(streams, codes, width, requires_grad=True),
        specials=torch.randn(streams, rows - codes, width, requires_grad=True),
    )
    hidden = torch.randn(2, STEPS, width, requires_grad=True)
    logits = part(hidden, tables)
    expected = (2, streams, STEPS, rows)
    assert tuple(logits.shape) == expected, f"{name}: logits are {tuple(logits.shape)}, expected {expected} (B,K,T,V)"
    assert logits.dtype.is_floating_point, f"{name}: logits are {logits.dtype}, expected a floating dtype"
    assert torch.isfinite(logits).all(), f"{name}: some logits are not finite"
    torch.autograd.backward(logits.square().sum())
    assert hidden.grad is not None, f"{name}: no gradient reaches the hidden states"
    assert (hidden.grad.abs().sum(-1) > 0).all(), f"{name}: some step has no influence on its logits"
    # Heads without parameters share the audio embeddings and must learn through them.
    learnt = [p.grad for p in part.parameters()] or [tables.codes.grad, tables.specials.grad]
    assert all(g is not None and g.abs().sum() > 0 for g in learnt), (
        f"{name}: the heads can't learn: a gradient is missing"
    )
    with torch.no_grad():
        later = hidden.clone()
        later[:, -1] += 1.0
        message = f"{name}: the logits of a step change with another step"
        _same(part(later, tables)[:, :, :-1], logits[:, :, :-1], message)


def _mask(columns: Tensor, lengths: Tensor) -> Tensor:
    """Return the columns with zeros beyond each row's length, (B,F',D)."""
    beyond = torch.arange(columns.shape[1])[None] >= lengths[:, None]
    return columns.masked_fill(beyond[:, :, None], 0.0)


def _same(given: Tensor, expected: Tensor, message: str) -> None:
    assert given.shape == expected.shape, f"{message}: shape {tuple(given.shape)}, expected {tuple(expected.shape)}"
    error = (given - expected).abs().max().item()
    assert error <= ATOL, f"{message}: largest difference {error:.2g}, allowed {ATOL:.0e}"
