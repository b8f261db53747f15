"""Rows of unequal length in one fixed cache: each is the one that it would be alone, and memory isn't laid out anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from anytalk.plugins.contracts import JoinableCache
from anytalk.plugins.hf.lean import LeanDecoder
from anytalk.plugins.hf.slot_cache import SlotCache

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


def step(lean: LeanDecoder, cache: SlotCache, lines: list[Line], count: int = 1) -> None:
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
    assert joint.length == max(two.read, three.read), "what is empty in all rows is given up"
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
    place = joint.store.untyped_storage().data_ptr()
    joint.keep_rows([0, 2, 3])
    joint.join(Line(lean, 6, 9).cache)
    assert joint.store.untyped_storage().data_ptr() == place
    assert joint.num_rows == 4


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
    assert joint.max_steps < 400
