"""Rows of unequal length in one cache: each is the one that it would be alone, and memory isn't laid out anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from anytalk.bench.memory import num_bytes, pretend
from anytalk.plugins.caches import KeyValueCache, Rows
from anytalk.plugins.contracts import ForgetfulCache, JoinableCache
from anytalk.plugins.hf.lean import LeanDecoder

WIDTH = 48


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=["fused", "packed"])
def lean(request: Any) -> LeanDecoder:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=64,
    )
    return LeanDecoder(transformers.LlamaModel(config).eval(), request.param)


class Line:
    """An answer: its input, what comes out of it alone, and how far it is."""

    def __init__(self, lean: LeanDecoder, prompt: int, seed: int) -> None:
        self.embeds = torch.randn(1, prompt + 40, WIDTH, generator=torch.Generator().manual_seed(seed))
        self.wanted = lean(self.embeds).normed[0]
        self.read = prompt
        self.cache = lean.new_cache(1, prompt + 40)
        lean(self.embeds[:, :prompt], self.cache)


def step(lean: LeanDecoder, cache: KeyValueCache, lines: list[Line], count: int = 1) -> None:
    rows = torch.cat([line.embeds[:, line.read : line.read + count] for line in lines])
    found: Tensor = lean(rows, cache).normed
    for line, row in zip(lines, found, strict=True):
        torch.testing.assert_close(row, line.wanted[line.read : line.read + count], atol=2e-5, rtol=2e-5)
        line.read += count


@pytest.mark.parametrize("lengths", [(3, 9, 5), (9, 3, 5), (4, 4, 4)])
def test_rows_come_and_go(lean: LeanDecoder, lengths: tuple[int, ...]) -> None:
    one, two, three = (Line(lean, length, seed) for seed, length in enumerate(lengths))
    joint = one.cache
    assert isinstance(joint, JoinableCache)
    step(lean, joint, [one])
    joint.join(two.cache)
    step(lean, joint, [one, two])
    step(lean, joint, [one, two], 3)
    joint.join(three.cache)
    step(lean, joint, [one, two, three])
    alone = joint.take(0)
    assert alone.length == one.read
    joint.keep_rows([1, 2])
    assert joint.length == max(two.read, three.read)
    step(lean, joint, [two, three])
    step(lean, alone, [one], 2)
    joint.join(alone)
    step(lean, joint, [two, three, one])
    joint.keep_rows([2, 0])
    step(lean, joint, [one, two])
    alone = joint.take(1)
    alone.crop(two.read - 2)
    two.read -= 2
    step(lean, alone, [two])


def test_slots_are_used_again(lean: LeanDecoder) -> None:
    lines = [Line(lean, 5 + number, number) for number in range(4)]
    joint = lines[0].cache
    for line in lines[1:]:
        joint.join(line.cache)
    place = joint.layers[0].data_ptr()
    joint.keep_rows([0, 2, 3])
    joint.join(Line(lean, 6, 9).cache)
    assert joint.layers[0].data_ptr() == place
    assert joint.rows.lengths == [5, 7, 8, 6]


def test_a_batch_that_never_ends_has_room(lean: LeanDecoder) -> None:
    """Rows join and leave for longer than any of them was meant to last."""
    lines = [Line(lean, 4, 0), Line(lean, 6, 1)]
    joint = lines[0].cache
    joint.join(lines[1].cache)
    for number in range(12):
        for _ in range(12):
            step(lean, joint, lines)
        joint.keep_rows([1])
        lines = [lines[1], Line(lean, 3, number + 2)]
        joint.join(lines[1].cache)
    assert joint.layers[0].shape[3] < 400


def test_positions_and_what_is_seen() -> None:
    rows = Rows(2)
    rows.advance(3)
    assert rows.are_alike
    assert rows.positions(2).tolist() == [[3, 4]]
    assert rows.seen(2).tolist() == [[[True] * 4 + [False], [True] * 5]]
    rows.advance([0, 2])
    assert not rows.are_level
    assert rows.positions(1).tolist() == [[3], [5]]
    assert rows.seen(1).int().tolist() == [[[1, 1, 1, 1, 0, 0]], [[1, 1, 1, 1, 1, 1]]]
    other = rows.take(1)
    other.forget(1, 3)
    assert (other.lengths, other.forgotten) == ([3], [2])
    rows.join(other)
    rows.keep([2, 0])
    assert rows.are_level
    assert not rows.are_alike
    assert rows.positions(1).tolist() == [[5], [3]]
    with pytest.raises(ValueError, match="only one gap"):
        rows.forget(0, 1)
    with pytest.raises(ValueError, match="can't be left out of a row of 3"):
        rows.forget(1, 4)
    rows.crop(1)
    assert (rows.lengths, rows.forgotten) == ([1, 1], [0, 0])


def test_one_row_is_kept_without_a_copy_and_more_steps_find_room() -> None:
    cache = KeyValueCache(3, 4)
    keys = torch.randn(3, 1, 4, 2)
    cache.append("a", keys, -keys)
    cache.advance(4)
    place = cache.layers["a"].data_ptr()
    cache.keep_rows([0, 1])
    assert cache.layers["a"].data_ptr() == place
    cache.keep_rows([1])
    assert cache.held("a").data_ptr() == place + 4 * keys[0].numel()
    more = torch.randn(1, 1, 90, 2)
    found, values = cache.append("a", more, -more)
    assert torch.equal(found, torch.cat([keys[1:2], more], dim=2))
    assert torch.equal(values, -found)


def test_caches_without_a_step_are_joined() -> None:
    empty, other = KeyValueCache(1, 8), KeyValueCache(1, 8)
    keys = torch.randn(2, 1, 3, 2)
    other.append(0, keys[1:], keys[1:])
    other.advance(3)
    empty.join(other)
    assert empty.rows.lengths == [0, 3]
    found, _ = empty.append(0, keys[:, :, :1], keys[:, :, :1])
    assert torch.equal(found[0, :, 0], keys[0, :, 0])
    assert torch.equal(found[1], torch.cat([keys[1], keys[1, :, :1]], dim=1))
    assert torch.isfinite(found).all(), "slots that a row doesn't hold are numbers"


def test_rows_may_count_fewer_steps_than_were_written() -> None:
    cache = KeyValueCache(2, 16)
    first, second = torch.randn(2, 1, 3, 2), torch.randn(2, 1, 2, 2)
    cache.append(0, first, first)
    cache.advance([1, 3])
    found, _ = cache.append(0, second, second)
    assert torch.equal(found[0, :, :3], torch.cat([first[0, :, :1], second[0]], dim=1))
    assert torch.equal(found[1], torch.cat([first[1], second[1]], dim=1))
    assert torch.isfinite(found).all()


def test_gradients_flow_through_what_was_remembered() -> None:
    with torch.enable_grad():
        cache, keys = KeyValueCache(1, 8), torch.randn(1, 1, 4, 2, requires_grad=True)
        cache.append(0, keys[:, :, :3], keys[:, :, :3])
        cache.advance(3)
        found, values = cache.append(0, keys[:, :, 3:], keys[:, :, 3:])
        cache.advance(1)
        (found.square().sum() + values.sum()).backward()
    assert torch.allclose(keys.grad, 2 * keys.detach() + 1)
    again, _ = cache.append(0, keys[:, :, :1].detach(), keys[:, :, :1].detach())
    assert torch.equal(again[:, :, :4], keys.detach())


def test_memory_is_what_is_stated_and_noise_is_held(lean: LeanDecoder) -> None:
    cache = lean.new_cache(1, 64)
    assert isinstance(cache, ForgetfulCache)
    lean(torch.randn(1, 1, WIDTH), cache)
    pretend(cache, 40)
    assert cache.length == 40
    assert torch.isfinite(lean(torch.randn(1, 2, WIDTH), cache).normed).all()
    assert num_bytes(cache) == 2 * 2 * 64 * WIDTH // 6 * 2 * 4  # layers, heads, steps, width, keys and values, float32
    assert num_bytes(None) == 0
