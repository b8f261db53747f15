"""Steps in ONNX Runtime are the lean decoder's, with weights of 4 bits; weights that had 4 bits before keep them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import model_folder
from test_lean import LLAMA3_ROPE, decoder_of
from torch import Tensor, nn

from anytalk.errors import ConfigError
from anytalk.kernels import RefinedMatrix
from anytalk.plugins import omp, optional
from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.components import PartRef
from anytalk.plugins.hf.four_bits import BLOCK, has_means, quantise, restore
from anytalk.plugins.hf.lean import LeanDecoder
from anytalk.plugins.hf.onnx_step import OnnxDecoder, OnnxMatrix
from anytalk.plugins.registry import default_registry

pytest.importorskip("onnx", reason="the extra `int4` isn't installed")

WIDE = {"hidden_size": 96, "intermediate_size": 144, "head_dim": 16}
"""Heads of 16 and matrices of 144 inputs, of which the last block has 16."""


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def q4_1(outputs: int, inputs: int) -> Tensor:
    """Return weights like those of a Q4_1 file: any lowest value and any scale for each block, (outputs,inputs)."""
    values = torch.randint(0, 16, (outputs, inputs // BLOCK, BLOCK)).float()
    values[..., 0], values[..., 1] = 0, 15
    scale = torch.rand(outputs, inputs // BLOCK, 1) + 0.1
    return (scale * values - (torch.rand_like(scale) * 9 + 3) * scale).flatten(1)


def q4_0(outputs: int, inputs: int) -> Tensor:
    """Return weights like those of a Q4_0 file: 16 multiples of a scale of either sign, (outputs,inputs)."""
    values = torch.randint(-8, 8, (outputs, inputs // BLOCK, BLOCK)).float()
    values[..., 0] = -8
    return (torch.randn(outputs, inputs // BLOCK, 1) * values).flatten(1)


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_weights_of_4_bits_stay_as_they_are() -> None:
    torch.manual_seed(0)
    plain = q4_0(40, 96)
    made = quantise(plain)
    assert not has_means(made, 96)
    torch.testing.assert_close(restore(made, 96), plain)
    shifted = q4_1(40, 96)
    made = quantise(shifted)
    assert has_means(made, 96)
    assert off(restore(made, 96), shifted) < 5e-3  # offsets have 4 bits of their own


def test_other_weights_lose_what_4_bits_cost() -> None:
    torch.manual_seed(0)
    for inputs in (96, 50):
        weight = torch.randn(40, inputs)
        made = quantise(weight)
        assert not has_means(made, inputs)
        assert 0.05 < off(restore(made, inputs), weight) < 0.1
    assert not restore(quantise(torch.zeros(4, 64)), 64).any()


def rounded(decoder: Any) -> Any:
    """Give a decoder the weights that its matrices stand for in 4 bits."""
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            module.weight.copy_(restore(quantise(module.weight), module.in_features))
    return decoder


@pytest.mark.parametrize("is_q4_1", [False, True])
@pytest.mark.parametrize(
    ("family", "changes"), [("qwen2", {}), ("llama", {"rope_parameters": LLAMA3_ROPE, "attention_bias": True})]
)
def test_steps_are_the_lean_decoders(family: str, changes: dict[str, Any], is_q4_1: bool) -> None:
    decoder = decoder_of(family, **WIDE | changes)
    for module in decoder.modules() if is_q4_1 else ():
        if isinstance(module, nn.Linear) and module.in_features % BLOCK == 0:
            module.weight.copy_(0.02 * q4_1(*module.weight.shape))
    onnx = OnnxDecoder(decoder)
    lean = LeanDecoder(rounded(decoder), "fused")
    embeds = torch.randn(2, 30, WIDE["hidden_size"])
    wanted, cache = lean(embeds), onnx.new_cache(2, 12)  # the memory grows on the way
    pieces = [onnx(piece, cache) for piece in embeds.split([9, *[1] * 21], dim=1)]
    for which in (0, 1):
        found = torch.cat([piece[which] for piece in pieces], dim=1)
        assert off(found, wanted[which]) < 0.02  # inputs have 8 bits


def step_alone(decoder: OnnxDecoder, cache: KeyValueCache, row: int, embeds: Tensor) -> Tensor:
    """Take the next step of one row in a cache of its own."""
    return decoder(embeds[row : row + 1], cache.take(row)).normed


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_head_is_exact_where_it_counts(has_bias: bool) -> None:
    torch.manual_seed(0)
    head, rows = nn.Linear(64, 600, bias=has_bias), torch.randn(2, 1, 64)
    wanted, coarse = head(rows), OnnxMatrix(head)
    stands_for = nn.functional.linear(rows, restore(quantise(head.weight), 64), head.bias)
    assert off(coarse(rows), stands_for) < 0.02
    assert off(coarse(rows), wanted) > 0.04
    made = RefinedMatrix(head.weight, coarse)(rows)
    best = wanted.topk(10, dim=-1).indices
    torch.testing.assert_close(made.gather(-1, best), wanted.gather(-1, best), atol=1e-5, rtol=1e-5)


def test_rows_of_any_length_and_with_gaps_step_together() -> None:
    decoder = OnnxDecoder(decoder_of("qwen2", **WIDE))
    embeds = torch.randn(1, 40, WIDE["hidden_size"])
    cache = decoder.new_cache(1, 40)
    decoder(embeds[:, :20], cache)
    cache.keep_rows([0, 0])
    decoder(embeds[:, 20:21].repeat(2, 1, 1), cache)
    cache.crop([21, 15])
    cache.forget(4, 7)
    other = decoder.new_cache(1, 4)
    decoder(embeds[:, 30:33], other)
    cache.join(other)
    for step in (21, 22):
        new = torch.randn(3, 1, WIDE["hidden_size"])
        alone = [step_alone(decoder, cache, row, new) for row in range(3)]
        torch.testing.assert_close(decoder(new, cache).normed, torch.cat(alone), atol=1e-5, rtol=1e-5)
        assert cache.rows.lengths[0] == step - 2
    cache.keep_rows([2])
    assert cache.rows.lengths == [5]
    new = torch.randn(1, 1, WIDE["hidden_size"])
    wanted = step_alone(decoder, cache, 0, new)
    torch.testing.assert_close(decoder(new, cache).normed, wanted, atol=1e-5, rtol=1e-5)


def test_a_gap_is_a_gap_for_int8_too() -> None:
    decoder = OnnxDecoder(rounded(decoder_of("qwen2", **WIDE)))
    embeds = torch.randn(1, 12, WIDE["hidden_size"])
    found = []
    for lean in (False, True):
        cache = decoder.new_cache(1, 12)
        decoder(embeds[:, :11], cache)
        cache.forget(2, 6)
        step = LeanDecoder.forward if lean else OnnxDecoder.forward
        found.append(step(decoder, embeds[:, 11:], cache).normed)
    assert off(*found) < 0.02


def test_heads_of_another_width_take_their_steps_in_8_bits(caplog: pytest.LogCaptureFixture) -> None:
    decoder = decoder_of()  # heads of 8
    embeds = torch.randn(1, 6, 48)
    made = []
    four = OnnxDecoder(decoder)
    assert "8 bits instead of 4: heads are 8 wide" in caplog.text
    for kind in (four, LeanDecoder(decoder, "int8")):
        cache = kind.new_cache(1, 6)
        kind(embeds[:, :5], cache)
        made.append(kind(embeds[:, 5:], cache).normed)
    assert torch.equal(*made)


def test_decoders_without_4_bit_steps_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = model_folder(tmp_path / "model", "gpt_neox")
    backbone = default_registry().build("backbone", PartRef(name="hf", options={"model": str(model)}))
    backbone.make_ready("int4", {})
    assert "8 bits instead of 4: no 4-bit steps are known for GPTNeoXModel" in caplog.text
    assert backbone.text_logits(backbone(backbone.embed_text(torch.tensor([[1, 2]]))).normed).isfinite().all()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(ConfigError, match="needs the package onnx, which is not installed") as caught:
        OnnxDecoder(decoder_of())
    assert "anytalk[int4]" in str(caught.value.hint)


def test_programs_that_wait_as_they_like_are_not_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")  # it is restored after the test
    monkeypatch.delenv("GOMP_SPINCOUNT")
    omp.wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    assert "GOMP_SPINCOUNT" not in omp.surroundings()
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    omp.wait_briefly()
    assert omp.surroundings()["GOMP_SPINCOUNT"] == "7"
