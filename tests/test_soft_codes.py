"""Targets that know which codes sound alike."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from test_snac import SMALL, write_folder

from anytalk.errors import ConfigError
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.registry import default_registry
from anytalk.train.soft_codes import soft_codes, soft_codes_of
from anytalk_adapters import snac_order

LINE = torch.tensor([[[0.0], [1.0], [3.0]]])
"""One stream of three codes at 0, 1 and 3: squared distances to the nearest are 1, 1, 4, their mean 2."""


def test_shares_fall_with_the_squared_distance() -> None:
    soft = soft_codes(LINE, softness=0.5)  # exp(-d² / (0.5 * 2)) = exp(-d²)
    assert soft.codes[0].tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0]]
    raw = [1.0, math.exp(-1), math.exp(-9)]
    assert soft.shares[0, 0].tolist() == pytest.approx([share / sum(raw) for share in raw])
    raw = [1.0, math.exp(-1), math.exp(-4)]
    assert soft.shares[0, 1].tolist() == pytest.approx([share / sum(raw) for share in raw])


def test_the_loss_is_zero_for_the_shares_themselves_and_plain_for_specials() -> None:
    soft = soft_codes(LINE, softness=0.5)
    told = torch.full((1, 3, 4), 1e-12)
    told[0].scatter_(1, soft.codes[0], soft.shares[0])
    losses = soft.losses(told.log(), torch.tensor([[0, 1, 2]]))
    assert losses.abs().max() < 1e-6
    logits = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    special = soft.losses(torch.log_softmax(logits, -1), torch.tensor([[3]]))
    assert special.item() == pytest.approx(torch.nn.functional.cross_entropy(logits[0], torch.tensor([3])).item())


def test_hardly_any_softness_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, 40, 5, generator=generator)
    logits = torch.randn(2, 9, 44, generator=generator)
    wanted = torch.randint(44, (2, 9), generator=generator)
    found = soft_codes(vectors, softness=1e-4).losses(torch.log_softmax(logits, -1), wanted)
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    assert torch.allclose(found.flatten(), plain, atol=1e-4)


def test_a_neighbour_costs_less_than_a_stranger() -> None:
    soft = soft_codes(LINE, softness=0.5)
    logits = torch.zeros(1, 1, 3)
    near, far = logits.clone(), logits.clone()
    near[..., 1], far[..., 2] = 5.0, 5.0
    wanted = torch.zeros(1, 1, dtype=torch.int64)
    assert soft.losses(near.log_softmax(-1), wanted) < soft.losses(far.log_softmax(-1), wanted) - 1.0


def test_twins_share_equally_and_keep_themselves_first() -> None:
    soft = soft_codes(torch.tensor([[[1.0], [1.0], [5.0], [9.0]]]), softness=0.5)
    assert soft.codes[0, 1, 0] == 1
    assert soft.shares[0, 1, :2].tolist() == pytest.approx([0.5, 0.5], abs=1e-2)


def test_vectors_of_a_codec_are_what_its_codes_add(tmp_path: Path) -> None:
    write_folder(tmp_path, SMALL)
    codec = default_registry().build("codec", PartRef(name="snac", options={"model": str(tmp_path)}))
    vectors = codec.code_vectors()
    assert vectors.shape[:2] == (codec.num_streams, codec.codebook_size)
    # Streams of one codebook have the same vectors: depth first, 1:2:4.
    assert torch.equal(vectors[1], vectors[4])
    assert all(torch.equal(vectors[2], vectors[k]) for k in (3, 5, 6))
    # What changes in the latents when one fine code changes is the difference of the two vectors (its bias cancels).
    codes = torch.zeros(1, codec.num_streams, 1, dtype=torch.int64)
    other = codes.clone()
    other[0, 6, 0] = 7
    unflattened = (snac_order.unflatten(c, codec.vq_strides) for c in (codes, other))
    before, after = (codec.model.quantizer.from_codes(c) for c in unflattened)
    assert torch.allclose((after - before)[0, :, 3], vectors[6, 7] - vectors[6, 0], atol=1e-5)


def test_a_codec_that_cannot_tell_is_an_error_with_a_way_out() -> None:
    class Mute:
        codec = default_registry().build("codec", PartRef(name="tiny"), BuildContext(device="cpu"))
        device = "cpu"

    assert soft_codes_of(Mute(), 0.0, "speak") is None  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="code_softness"):
        soft_codes_of(Mute(), 0.5, "speak")  # type: ignore[arg-type]
