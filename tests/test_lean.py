"""The lean decoder is transformers' own, its cache included, in every arithmetic; what must not be touched isn't."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from anytalk.errors import ConfigError
from anytalk.kernels import (
    ARITHMETICS,
    Int8Matrix,
    RefinedMatrix,
    _largest,
    make_matrix,
    make_ready,
    peaks_of,
)
from anytalk.plugins.hf.causal_lm import HFBlocks
from anytalk.plugins.hf.lean import LeanDecoder, can_be_lean

SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 256,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def decoder_of(family: str = "qwen2", **changes: Any) -> Any:
    torch.manual_seed(0)
    if family == "qwen2":
        model: Any = transformers.Qwen2Model(transformers.Qwen2Config(**SMALL | changes))
    else:
        model = transformers.LlamaModel(transformers.LlamaConfig(**SMALL | changes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # as made they are zeros and ones, which would hide a mistake
            nn.init.normal_(parameter, 1.0, 0.3)
    return model.eval()


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("arithmetic", ["fused", "packed"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {}),
        ("llama", {"num_key_value_heads": 6}),
        ("llama", {"num_key_value_heads": 1, "head_dim": 16}),
        ("llama", {"rope_parameters": LLAMA3_ROPE, "attention_bias": True}),
    ],
)
def test_lean_is_transformers(family: str, changes: dict[str, Any], arithmetic: Any) -> None:
    decoder = decoder_of(family, **changes)
    lean = LeanDecoder(decoder, arithmetic)
    embeds = torch.randn(2, 40, SMALL["hidden_size"])
    wanted = decoder(inputs_embeds=embeds).last_hidden_state
    torch.testing.assert_close(lean(embeds).normed, wanted, atol=2e-5, rtol=2e-5)
    cache = lean.new_cache(2, 40)
    pieces = [lean(piece, cache).normed for piece in embeds.split([17, 1, 1, 9, 1, 11], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), wanted, atol=2e-5, rtol=2e-5)


def test_states_before_the_norm_are_the_ones_that_the_norm_gets() -> None:
    decoder = decoder_of()
    states = LeanDecoder(decoder, "fused")(torch.randn(1, 5, 48))
    torch.testing.assert_close(decoder.norm(states.pre_norm), states.normed)


def test_cache_rows_and_steps() -> None:
    lean = LeanDecoder(decoder_of(), "fused")
    embeds = torch.randn(1, 9, 48)
    wanted = lean(embeds.repeat(2, 1, 1)).normed
    cache = lean.new_cache(1, 12)
    lean(embeds[:, :8], cache)
    cache.keep_rows([0, 0])
    both = lean(embeds[:, 8:].repeat(2, 1, 1), cache).normed
    torch.testing.assert_close(both[:, 0], wanted[:, 8], atol=1e-5, rtol=1e-5)
    cache.keep_rows([1])
    cache.crop(4)
    assert cache.length == 4
    again = lean(embeds[:, 4:], cache).normed
    torch.testing.assert_close(again, wanted[:1, 4:], atol=1e-5, rtol=1e-5)
    more = torch.randn(1, 30, 48)
    wanted = lean(torch.cat([embeds, more], dim=1)).normed[:, 9:]
    torch.testing.assert_close(lean(more, cache).normed, wanted, atol=1e-5, rtol=1e-5)
    assert cache.length == 39, "a cache grows past what was expected"


def test_int8_balances_what_is_large() -> None:
    decoder = decoder_of()
    with torch.no_grad():
        decoder.layers[0].input_layernorm.weight[7] *= 40
        decoder.layers[1].mlp.up_proj.weight[3] *= 40
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    embeds = torch.randn(2, 30, 48)
    with peaks_of(decoder) as peaks:
        wanted = decoder(inputs_embeds=embeds).last_hidden_state
    errors = []
    for known in ({}, peaks):
        found = LeanDecoder(decoder, "int8", known)(embeds).normed
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[1] < 0.7 * errors[0]
    assert errors[1] < 0.06
    assert all(torch.equal(before[name], tensor) for name, tensor in decoder.state_dict().items())


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize("has_bias", [True, False])
def test_matrices_multiply(arithmetic: Any, rows: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(24, 40), torch.randn(24) if has_bias else None
    inputs = torch.randn(rows, 40)
    inputs[0] *= 1000  # a row of large values must not blur the others
    made = make_matrix(arithmetic, weight, bias)(inputs[None])[0]
    wanted = nn.functional.linear(inputs, weight, bias)
    # 8 bits of weights and 7 or 8 of inputs: about a percent of a row's typical output.
    error = (made - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert made.shape == wanted.shape
    assert float(error.max()) < (0.02 if arithmetic in ("int8", "int4") else 1e-5)


def test_a_refined_head_is_exact_where_it_counts() -> None:
    torch.manual_seed(0)
    weight, bias, rows = torch.randn(500, 32), torch.randn(500), torch.randn(1, 3, 32)
    made, wanted = RefinedMatrix(weight, Int8Matrix(weight, bias))(rows), nn.functional.linear(rows, weight, bias)
    best = wanted.topk(20, dim=-1).indices
    torch.testing.assert_close(made.gather(-1, best), wanted.gather(-1, best), atol=1e-4, rtol=1e-4)
    assert torch.equal(made.argmax(-1), wanted.argmax(-1))
    assert float((made - wanted).norm() / wanted.norm()) < 0.02
    assert RefinedMatrix(weight[:5], Int8Matrix(weight[:5], bias[:5]))(rows).shape == (1, 3, 5)


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.randn(8)
    made = make_matrix("int8", torch.randn(8, 16), bias)(torch.zeros(2, 16))
    torch.testing.assert_close(made, bias.expand(2, 8))


def test_known_peaks_make_int8_more_exact() -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(32, 64), torch.randn(4, 64)
    inputs[:, 5] *= 60
    weight[:, 5] /= 60
    wanted = inputs @ weight.T
    peaks = inputs.abs().amax(dim=0)
    blind, seeing = (float((m(inputs) - wanted).norm()) for m in (Int8Matrix(weight), Int8Matrix(weight, None, peaks)))
    assert seeing < blind / 5


def test_peaks_are_the_largest_inputs_of_all_calls() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1))
    with peaks_of(model) as peaks:
        model(torch.tensor([[1.0, -4.0], [2.0, 3.0]]))
        model(torch.tensor([[-3.0, 1.0]]))
    assert peaks[model[0]].tolist() == [3.0, 4.0]
    model(torch.tensor([[100.0, 100.0]]))
    assert peaks[model[0]].tolist() == [3.0, 4.0]


def test_only_plain_linears_are_replaced() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), Own(4, 4), nn.LayerNorm(4))
    make_ready(model, "packed", {})
    kinds = [type(module).__name__ for module in (model[0], model[1][0], model[2], model[3])]
    assert kinds == ["PackedMatrix", "PackedMatrix", "Own", "LayerNorm"]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="unknown arithmetic 'int7'"):
        make_matrix("int7", torch.zeros(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="float32 weights on a CPU"):
        make_matrix("int8", torch.zeros(2, 2, dtype=torch.bfloat16))


def test_unknown_decoders_stay_themselves() -> None:
    gpt2 = transformers.GPT2Model(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=8)).eval()
    assert not can_be_lean(gpt2)
    assert not can_be_lean(
        decoder_of("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2})
    )
    assert not can_be_lean(decoder_of("llama", hidden_act="gelu"))
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    assert not can_be_lean(decoder_of("qwen2", **sliding))
    assert can_be_lean(decoder_of("qwen2"))


def test_blocks_made_ready_compute_the_same() -> None:
    decoder = decoder_of()
    decoder.set_input_embeddings(nn.Identity())
    blocks, embeds = HFBlocks(decoder), torch.randn(1, 6, 48)
    wanted = blocks(embeds)
    make_ready(blocks, "packed", {})
    assert isinstance(blocks.decoder, LeanDecoder)
    cache = blocks.new_cache(1, 6)
    made = torch.cat([blocks(piece, cache) for piece in embeds.split([4, 1, 1], dim=1)], dim=1)
    torch.testing.assert_close(made, wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1, 20_000), (2, 1, 16_384), (3, 16_447), (2, 100)])
def test_the_largest_values_are_found_wherever_they_lie(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values[..., -1] = 9.0  # after the last whole block
    values[..., 64:100] += 9.0  # many in one block
    found, expected = _largest(values, 64), values.topk(64, dim=-1).indices
    assert torch.equal(found.sort(dim=-1).values, expected.sort(dim=-1).values)
