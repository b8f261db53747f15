"""Checks the promises of :class:`anytalk.plugins.contracts.Backbone` on a few small batches."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, ForgetfulCache, JoinableCache, TextTokenizer
from anytalk.plugins.registry import Registry
from anytalk.plugins.testing.options import built

_BATCH = 3
_STEPS = 6
_EXPECTED = 4
"""The `max_steps` of caches, fewer than are run, so that caches have to grow."""
_TOLERANCE = 1e-4
_TEXT = "Hello, world! 12 bees"


def check_backbone(
    name_or_part: str | Backbone, registry: Registry | None = None, options: dict[str, Any] | None = None
) -> None:
    """Check every promise of the contract, and warn if the server can't batch this backbone's answers."""
    backbone: Backbone = built("backbone", name_or_part, registry, options)[0]
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            check_shapes(backbone)
            check_causality(backbone)
            check_cache(backbone)
        check_gradient(backbone)
        check_tokenizer(backbone)
        check_blocks(backbone)
        check_save(backbone)
    finally:
        backbone.train(was_training)


def check_shapes(backbone: Backbone) -> None:
    """Check shapes and dtypes of embeddings, states and logits."""
    ids = _ids(backbone)
    embeds = backbone.embed_text(ids)
    expected = (_BATCH, _STEPS, backbone.width)
    assert embeds.shape == expected, f"embed_text gives {tuple(embeds.shape)}, expected (B,T,D) = {expected}"
    assert embeds.is_floating_point(), f"embed_text gives {embeds.dtype}, expected a floating dtype"
    states = backbone(embeds)
    for field in ("pre_norm", "normed"):
        state = getattr(states, field)
        assert state.shape == expected, f"states.{field} is {tuple(state.shape)}, expected (B,T,D) = {expected}"
        assert state.dtype == embeds.dtype, f"states.{field} is {state.dtype}, but the embeddings are {embeds.dtype}"
        assert state.isfinite().all(), f"states.{field} holds numbers that are not finite"
    if states.pre_norm is not states.normed:  # a model without a final norm gives one tensor for both
        assert not torch.equal(states.pre_norm, states.normed), (
            "states.pre_norm is already normed; a model without a final norm gives the same tensor as both"
        )
    logits = backbone.text_logits(states.normed)
    expected = (_BATCH, _STEPS, backbone.text_vocab_size)
    assert logits.shape == expected, f"text_logits gives {tuple(logits.shape)}, expected (B,T,V) = {expected}"


def check_causality(backbone: Backbone) -> None:
    """Check that a step changes its own and later states but no earlier ones, and that rows don't affect each other."""
    embeds = backbone.embed_text(_ids(backbone))
    whole = backbone(embeds).normed
    changed = embeds.clone()
    # The first embedding plus one certainly differs from the last.
    changed[:, -1] = changed[:, 0] + 1.0
    other = backbone(changed).normed
    assert _close(other[:, :-1], whole[:, :-1]), "a later step changes the states of earlier ones: not causal"
    assert not _close(other[:, -1], whole[:, -1]), "a changed step doesn't change its own state"
    changed = embeds.clone()
    changed[:, 0] = changed[:, -1] + 1.0
    assert not _close(backbone(changed).normed[:, -1], whole[:, -1]), "an earlier step doesn't reach later ones"
    for row in range(_BATCH):
        assert _close(backbone(embeds[row : row + 1]).normed[0], whole[row]), "a row's states depend on its batch"


def check_cache(backbone: Backbone) -> None:
    """Check that states with a cache equal those without, and that rows and steps can leave it and rows join it."""
    embeds = backbone.embed_text(_ids(backbone))
    _check_cached("the backbone", embeds, lambda x, cache: backbone(x, cache).normed, _cache_maker(backbone))
    _check_failing(backbone, embeds)
    if not isinstance(backbone.new_cache(1, _EXPECTED), JoinableCache):
        warnings.warn(
            f"the cache of {type(backbone).__name__} has no join() and take(): a server runs its answers one by one; "
            "anytalk.plugins.caches.KeyValueCache has both",
            stacklevel=3,
        )


def _check_failing(backbone: Backbone, embeds: Tensor) -> None:
    """Check that ``crop`` removes what a failed call wrote: a server continues with the other rows."""
    called: list[nn.Module] = []
    leaves = [module for module in backbone.modules() if not any(True for _ in module.children())]
    hooks = [leaf.register_forward_pre_hook(lambda module, _: called.append(module)) for leaf in leaves]
    whole = backbone(embeds).normed
    for hook in hooks:
        hook.remove()
    if not called:  # without a submodule to hook, no failure can be caused
        return
    cache = backbone.new_cache(_BATCH, _EXPECTED)
    backbone(embeds[:, :3], cache)
    # The last module that runs: by then, every layer has written to its cache.
    hook = called[-1].register_forward_pre_hook(_fail)
    with suppress(_FailedError):
        backbone(embeds[:, 3:4], cache)
    hook.remove()
    cache.crop(3)
    again = backbone(embeds[:, 3:], cache).normed
    assert _close(again, whole[:, 3:]), "a cache goes on differently after a call that failed"


class _FailedError(Exception):
    pass


def _fail(*_: object) -> None:
    raise _FailedError


def _check_cached(
    who: str, embeds: Tensor, run: Callable[[Tensor, Any], Tensor], new_cache: Callable[[int], Any]
) -> None:
    whole = run(embeds, None)
    cache = new_cache(_BATCH)
    assert cache.length == 0, f"a new cache of {who} has length {cache.length}, expected 0"
    steps = []
    for step in range(_STEPS):
        steps.append(run(embeds[:, step : step + 1], cache))
        assert cache.length == step + 1, f"after {step + 1} steps the cache of {who} has length {cache.length}"
    assert _close(torch.cat(steps, dim=1), whole), f"{who} gives other states step by step with a cache"
    cache = new_cache(_BATCH)
    chunks = [run(embeds[:, :4], cache), run(embeds[:, 4:], cache)]
    assert _close(torch.cat(chunks, dim=1), whole), f"{who} gives other states in two chunks with a cache"

    cache.crop(3)
    assert cache.length == 3, f"crop(3) leaves a cache of length {cache.length} in {who}"
    assert _close(run(embeds[:, 3:], cache), whole[:, 3:]), f"{who} gives other states after crop(3)"
    cache.crop(_STEPS + 1)
    assert cache.length == _STEPS, f"crop beyond the end changes the cache of {who}"

    cache.crop(2)
    rows = [2, 0, 0]
    cache.keep_rows(rows)
    kept = run(embeds[rows, 2:], cache)
    assert _close(kept, whole[rows, 2:]), f"{who} gives other states after keep_rows({rows})"
    cache.crop(2)
    cache.keep_rows([1])
    assert _close(run(embeds[0:1, 2:], cache), whole[0:1, 2:]), f"{who} gives other states after keep_rows([1])"
    if isinstance(cache, ForgetfulCache):
        _check_forgetting(who, embeds, run, new_cache)
    if isinstance(cache, JoinableCache):
        _check_joining(who, embeds, run, new_cache)


def _check_joining(
    who: str, embeds: Tensor, run: Callable[[Tensor, Any], Tensor], new_cache: Callable[[int], Any]
) -> None:
    """Check that joined rows of unequal length continue as each does alone, also after one leaves and they move."""
    whole = run(embeds, None)

    def step(cache: Any, rows: list[int], count: int) -> Tensor:
        """Return how far the next steps of these rows are from those without a cache."""
        found = run(torch.stack([embeds[row, read[row] : read[row] + count] for row in rows]), cache)
        wanted = torch.stack([whole[row, read[row] : read[row] + count] for row in rows])
        for row in rows:
            read[row] += count
        return found - wanted

    read = [2, 4, 1]
    caches = [new_cache(1) for _ in read]
    for row, cache in enumerate(caches):
        run(embeds[row : row + 1, : read[row]], cache)
    joint = caches[0]
    for cache in caches[1:]:
        joint.join(cache)
    assert joint.length == 4, f"rows of 2, 4 and 1 steps that were joined have length {joint.length} in {who}"
    scale = max(1.0, float(whole.abs().max()))

    def same(off: Tensor, when: str) -> None:
        assert float(off.abs().max()) <= _TOLERANCE * scale, f"{who} gives other states {when}"

    same(step(joint, [0, 1, 2], 1), "for rows of unequal length that were joined")
    alone = joint.take(1)
    assert alone.length == 5, f"take() of a row of 5 steps gives a cache of length {alone.length} in {who}"
    same(step(joint, [0, 1, 2], 1), "for a joint cache after take() of one of its rows")
    read[1] -= 1
    same(step(alone, [1], 1), "for a row after take()")
    joint.keep_rows([2, 0])
    assert joint.length == 4, (
        f"the rows that keep_rows() leaves have length {joint.length} in {who}, not that of theirs"
    )
    same(step(joint, [2, 0], 2), "for joined rows after keep_rows()")
    alone.crop(2)
    read[1] = 2
    joint.keep_rows([0])
    joint.join(alone)
    same(step(joint, [2, 1], 1), "for a row that was taken, cropped and joined again")


def _check_forgetting(
    who: str, embeds: Tensor, run: Callable[[Tensor, Any], Tensor], new_cache: Callable[[int], Any]
) -> None:
    """Check that steps keep their positions: dropping two at once, one by one, or after none, must be the same."""
    found = []
    for gaps in ([(1, 3)], [(1, 2), (1, 2)], [(2, 2), (1, 3)]):
        cache = new_cache(_BATCH)
        run(embeds[:, :4], cache)
        for first, stop in gaps:
            cache.forget(first, stop)
        assert cache.length == 2, f"4 steps without 2 leave a cache of length {cache.length} in {who}"
        found.append(run(embeds[:, 4:], cache))
    assert _close(found[1], found[0]), f"{who} gives other states after forget() twice than after both at once"
    assert _close(found[2], found[0]), f"forget() of no step changes the cache of {who}"
    cache.crop(1)
    again, whole = run(embeds[:, 1:], cache), run(embeds, None)
    assert _close(again, whole[:, 1:]), f"{who} gives other states after crop() to before what was forgotten"


def check_gradient(backbone: Backbone) -> None:
    """Check that gradients reach the embeddings from both states, so that adapters before the backbone can learn."""
    ids = _ids(backbone)
    for field in ("pre_norm", "normed"):
        embeds = backbone.embed_text(ids).detach().requires_grad_()
        states = backbone(embeds)
        # Squares, because the sum of a normed vector may be constant.
        (grad,) = torch.autograd.grad(
            getattr(states, field).square()[:, -1].sum(dim=0)[: 1 + backbone.width // 2].sum(), embeds
        )
        assert grad.isfinite().all(), f"the gradient of {field} is not finite"
        assert (grad[:, 0] != 0).any(), f"no gradient flows from {field} of the last step to the first embedding"


def check_tokenizer(backbone: Backbone) -> None:
    """Check that text survives a round trip, ids are in range, odd ids are dropped, and chats can be encoded."""
    tokenizer, vocab = backbone.tokenizer, backbone.text_vocab_size
    assert isinstance(tokenizer, TextTokenizer), "tokenizer lacks a member of TextTokenizer"
    assert 0 <= tokenizer.eos_id < vocab, f"eos_id {tokenizer.eos_id} is outside the vocabulary of {vocab}"
    ids = tokenizer.encode(_TEXT)
    assert all(isinstance(i, int) and 0 <= i < vocab for i in ids), "encode gives ids outside the vocabulary"
    back = tokenizer.decode(ids)
    assert back.strip() == _TEXT, f"'{_TEXT}' comes back as '{back}'"
    # Padded vocabularies have ids that no tokenizer knows.
    again = tokenizer.decode([*ids, tokenizer.eos_id, vocab + 1_000_000])
    assert again == back, "decode doesn't leave out special tokens and ids outside the vocabulary"
    if tokenizer.has_chat_template:
        rendered = tokenizer.render_chat([{"role": "user", "content": _TEXT}])
        assert _TEXT in rendered, "render_chat loses the message"
        found = tokenizer.encode_rendered(rendered)
        assert all(0 <= i < vocab for i in found), "a rendered chat has ids outside the vocabulary"
        typed = tokenizer.decode(tokenizer.encode(rendered))
        # Some tokenizers put a space before whatever is encoded on its own.
        assert typed.replace(" ", "") == rendered.replace(" ", ""), "encode recognises markup that people typed"
    assert tokenizer.encode_rendered(_TEXT) == ids, "encode and encode_rendered differ on text without markup"


def check_blocks(backbone: Backbone) -> None:
    """Check blocks made by the backbone: shapes, own parameters, copies that are equal, and caching."""
    embeds = backbone.embed_text(_ids(backbone)).detach()
    own = {parameter.data_ptr() for parameter in backbone.parameters()}
    for num_blocks, init in ((1, "fresh"), (2, "fresh"), (1, "copy"), (2, "copy")):
        who = f"make_blocks({num_blocks}, '{init}')"
        blocks = backbone.make_blocks(num_blocks, init)
        blocks.eval()
        parameters = list(blocks.parameters())
        assert parameters, f"{who} has no parameters"
        # Equal addresses mean shared memory.
        assert not own & {p.data_ptr() for p in parameters}, f"{who} shares parameters with the backbone"
        out = blocks(embeds)
        assert out.shape == embeds.shape, f"{who} gives {tuple(out.shape)}, expected {tuple(embeds.shape)}"
        grads = torch.autograd.grad(out.square().sum(), parameters, allow_unused=True)
        assert all(grad is not None for grad in grads), f"{who} has parameters that never get a gradient"
        with torch.no_grad():
            _check_cached(who, embeds, blocks, _cache_maker(blocks))
        if init == "copy":
            with torch.no_grad():
                again = backbone.make_blocks(num_blocks, init).eval()
                assert torch.equal(again(embeds), out), f"{who} gives other weights each time"
                assert not torch.equal(backbone.make_blocks(num_blocks, "fresh").eval()(embeds), out), (
                    f"{who} copies nothing"
                )


def _cache_maker(blocks: Any) -> Callable[[int], Any]:
    return lambda batch_size: blocks.new_cache(batch_size, _EXPECTED)


def check_save(backbone: Backbone) -> None:
    """Check that ``load_native`` returns what ``save_native`` wrote, bit for bit."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "native"
        backbone.save_native(folder)
        assert any(folder.iterdir()), "save_native writes nothing"
        embeds = backbone.embed_text(_ids(backbone))
        context = BuildContext(device=str(embeds.device), dtype=str(embeds.dtype).removeprefix("torch."))
        loaded = type(backbone).load_native(folder, context).eval()
        with torch.no_grad():
            before, after = _logits(backbone), _logits(loaded)
        assert torch.equal(before, after), "a saved backbone gives other logits when it is loaded again"
        assert loaded.tokenizer.encode(_TEXT) == backbone.tokenizer.encode(_TEXT), "save_native loses the tokenizer"
        assert loaded.tokenizer.eos_id == backbone.tokenizer.eos_id, "save_native loses the tokenizer's eos_id"


def _logits(backbone: Backbone) -> Tensor:
    return backbone.text_logits(backbone(backbone.embed_text(_ids(backbone))).normed)


def _ids(backbone: Backbone) -> Tensor:
    """Return different ids, (B,T), on the device of the weights."""
    device = next(backbone.parameters()).device
    # Any vocabulary is large enough, because ids wrap around it.
    return (torch.arange(_BATCH * _STEPS, device=device).view(_BATCH, _STEPS) * 7 + 3) % backbone.text_vocab_size


def _close(a: Tensor, b: Tensor) -> bool:
    """Return whether both are equal up to 1e-4 of the largest number; states of big models reach thousands."""
    scale = max(1.0, float(b.abs().max()))
    return float((a - b).abs().max()) <= _TOLERANCE * scale
