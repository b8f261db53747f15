"""Attention over a memory in bfloat16 is torch's own, however long the memory is and whatever lies behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from anytalk.plugins.hf import attention
from anytalk.plugins.hf import lean as lean_module
from anytalk.plugins.hf.attention import Attention, Near, half_is_fast
from anytalk.plugins.hf.lean import LeanDecoder

CLOSE = {"atol": 0.02, "rtol": 0.02}
"""bfloat16 has 8 bits: scores, weights and sums are off by 0.4 % each."""


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture(params=["torch's", "ours"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "FEW", 0 if request.param == "ours" else 10**9)


def memory(rows: int, steps: int) -> Tensor:
    """(2,rows,2,steps,16), part of a larger one that was never written: it may hold anything."""
    room = torch.full((2, rows + 1, 2, steps + 37, 16), torch.nan, dtype=torch.bfloat16)
    held = room[:, :rows, :, :steps]
    return held.copy_(torch.randn(held.shape))


def plain(query: Tensor, held: Tensor, mask: Tensor | None = None) -> Tensor:
    keys, values = held.to(query.dtype)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


@pytest.mark.usefixtures("_way")
def test_a_step_over_half_precision() -> None:
    attend = Attention()
    for rows, steps in ((2, 1), (2, 63), (2, 64), (2, 65), (1, 200), (3, 130), (1, 129)):
        query, held = torch.randn(rows, 2, 7, 16), memory(rows, steps)
        found = attend(query, held, None, 1)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, plain(query, held), **CLOSE)


@pytest.mark.usefixtures("_way")
def test_rows_of_unequal_length() -> None:
    query, held = torch.randn(2, 2, 7, 16), memory(2, 70)
    mask = torch.zeros(2, 1, 7, 70)
    mask[1, ..., :40] = -torch.inf
    found = Attention()(query, held, mask, 1)
    torch.testing.assert_close(found[:1], plain(query[:1], held[:, :1]), **CLOSE)
    torch.testing.assert_close(found[1:], plain(query[1:], held[:, 1:, :, 40:]), **CLOSE)


def test_prompts_and_memories_of_their_own_dtype_are_torch_s() -> None:
    query, held = torch.randn(1, 2, 6, 16), memory(1, 30)
    mask = torch.ones(3, 30, dtype=torch.bool).tril(27).repeat(2, 1)
    assert torch.equal(Attention()(query, held, mask, 3), plain(query, held, mask))
    assert torch.equal(Attention()(query, held.float(), None, 1), plain(query, held))


def decoder() -> transformers.Qwen2Model:
    config = transformers.Qwen2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=8,
    )
    return transformers.Qwen2Model(config).eval()


@pytest.mark.usefixtures("_way")
def test_a_decoder_that_remembers_in_half_precision() -> None:
    lean = LeanDecoder(decoder(), "fused")
    embeds = torch.randn(2, 90, 64)
    wanted = lean(embeds).normed
    lean.memory_dtype = torch.bfloat16
    cache = lean.new_cache(2, 100)
    pieces = [lean(piece, cache).normed for piece in embeds.split([60, *[1] * 20, 10], dim=1)]
    found = torch.cat(pieces, dim=1)
    assert float((found - wanted).norm() / wanted.norm()) < 0.005


@pytest.mark.usefixtures("_way")
def test_answers_that_share_a_batch_and_remember_in_half_precision() -> None:
    lean = LeanDecoder(decoder(), "fused")
    embeds = torch.randn(2, 90, 64)
    wanted = lean(embeds).normed
    lean.memory_dtype = torch.bfloat16
    joint, other = lean.new_cache(1, 60), lean.new_cache(1, 80)
    lean(embeds[:1, :50], joint)
    lean(embeds[1:, :70], other)
    joint.join(other)
    for number in range(20):
        found = lean(torch.stack([embeds[0, 50 + number], embeds[1, 70 + number]])[:, None], joint).normed
        for row, place in ((0, 50 + number), (1, 70 + number)):
            assert float((found[row, 0] - wanted[row, place]).norm() / wanted[row, place].norm()) < 0.01


@pytest.mark.parametrize("shared", [0, 5, 70])
def test_single_steps_of_rows_that_share_what_is_in_front(shared: int) -> None:
    rows, length = 2, 70
    held = torch.randn(3, 2, rows, 2, 200, 16).bfloat16()  # three layers
    held[:, :, 1, :, :shared] = held[:, :, 0, :, :shared]
    near = Near(held[..., :length, :], shared)
    for step in range(length, 140):  # over two blocks' ends
        near.reserve()
        query = torch.randn(rows, 2, 7, 16)
        for layer in range(3):
            seen = held[layer, ..., : step + 1, :]
            torch.testing.assert_close(near.attend(layer, query, seen), plain(query, seen), **CLOSE)
    assert near.length == 140


def test_both_rows_look_at_one_copy_of_their_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    lean = LeanDecoder(decoder(), "fused")
    lean.memory_dtype = torch.bfloat16
    monkeypatch.setattr(attention, "FEW", 0)
    made: list[tuple[int, int, int]] = []

    class Watched(Near):
        def __init__(self, held: Sequence[Tensor], shared: int) -> None:
            super().__init__(held, shared)
            made.append((self.rows, self.length, shared))

    monkeypatch.setattr(lean_module, "Near", Watched)
    prompt, steps = torch.randn(1, 40, 64), torch.randn(2, 31, 64)
    whole = torch.cat([prompt.expand(2, -1, -1), steps], dim=1)
    wanted = lean(whole).normed[:, 40:]
    cache = lean.new_cache(1, 80)
    lean(prompt, cache)
    cache.keep_rows([0, 0])
    found = [lean(steps[:, :2], cache).normed, *(lean(steps[:, n : n + 1], cache).normed for n in range(2, 20))]
    # What was laid out is laid out anew after anything but a step: rows that go, steps that are taken back.
    cache.crop(55)
    found = [torch.cat(found, dim=1)[:, :15], *(lean(steps[:, n : n + 1], cache).normed for n in range(15, 25))]
    cache.keep_rows([1])
    found = [torch.cat(found, dim=1)[1:], *(lean(steps[1:, n : n + 1], cache).normed for n in range(25, 31))]
    gaps = (torch.cat(found, dim=1) - wanted[1:]).norm(dim=-1) / wanted[1:].norm(dim=-1)
    assert float(gaps.max()) < 0.01
    assert made == [(2, 42, 40), (2, 55, 40), (1, 65, 65)]


def test_in_float32_only_a_long_prompt_that_rows_share_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "FEW", 16)
    lean = LeanDecoder(decoder(), "fused")
    prompt, steps = torch.randn(1, 20, 64), torch.randn(2, 30, 64)
    wanted = lean(torch.cat([prompt.expand(2, -1, -1), steps], dim=1)).normed[:, 20:]
    laid_out = []
    for as_in_int8, rows in ((True, [0, 0]), (True, [0]), (False, [0, 0])):
        lean._lays_out = as_in_int8
        cache = lean.new_cache(1, 60)
        lean(prompt, cache)
        cache.keep_rows(rows)
        count = len(rows)
        found = []
        for n in range(30):
            found.append(lean(steps[:count, n : n + 1], cache).normed)
            laid_out += [] if cache.near is None else [(as_in_int8, count)]
        torch.testing.assert_close(torch.cat(found, dim=1), wanted[:count], rtol=1e-4, atol=1e-4)
    assert laid_out[0] == (True, 2)
    # Once the prompt is less than half of all, reading it twice is no matter.
    assert set(laid_out) == {(True, 2)}


def test_only_int8_remembers_in_half_precision() -> None:
    kept = []
    for name in ("packed", "int8"):
        lean = LeanDecoder(decoder(), name)
        cache = lean.new_cache(1, 8)
        lean(torch.randn(1, 3, 64), cache)
        kept.append(cache.layers[0])
    assert kept[0].dtype == torch.float32
    assert kept[1].dtype == (torch.bfloat16 if half_is_fast() else torch.float32)
    assert kept[0].shape == kept[1].shape
