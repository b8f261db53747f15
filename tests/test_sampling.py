"""Choosing tokens, with probabilities that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anytalk.decode.sampling import GREEDY, SamplingOptions, choose
from anytalk.errors import ConfigError

PROBS = torch.tensor([0.5, 0.25, 0.15, 0.1])


def frequencies(options: SamplingOptions, logits: Tensor, recent: Tensor | None = None, draws: int = 4000) -> Tensor:
    """How often each token is chosen, (V,)."""
    generator = torch.Generator().manual_seed(0)
    rows = None if recent is None else recent.expand(draws, -1)
    chosen = choose(logits.expand(draws, -1), options, rows, generator)
    return torch.bincount(chosen, minlength=logits.shape[-1]) / draws


def test_greedy_takes_the_likeliest_of_each_row() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 1.0]])
    assert choose(logits, GREEDY, None, None).tolist() == [1, 0]
    assert choose(logits.bfloat16(), GREEDY, None, None).dtype == torch.int64


def test_temperature_one_follows_the_probabilities() -> None:
    assert torch.allclose(frequencies(SamplingOptions(temperature=1.0), PROBS.log()), PROBS, atol=0.03)


def test_a_low_temperature_sharpens() -> None:
    expected = PROBS**2 / (PROBS**2).sum()
    assert torch.allclose(frequencies(SamplingOptions(temperature=0.5), PROBS.log()), expected, atol=0.03)


@pytest.mark.parametrize(("k", "kept"), [(1, 1), (2, 2), (4, 4), (9, 4), (0, 4)])
def test_top_k(k: int, kept: int) -> None:
    expected = torch.where(torch.arange(4) < kept, PROBS, 0.0)
    found = frequencies(SamplingOptions(temperature=1.0, top_k=k), PROBS.log())
    assert torch.allclose(found, expected / expected.sum(), atol=0.03)
    assert (found > 0).tolist() == (expected > 0).tolist()


@pytest.mark.parametrize(("p", "kept"), [(0.01, 1), (0.49, 1), (0.6, 2), (0.8, 3), (1.0, 4)])
def test_top_p(p: float, kept: int) -> None:
    expected = torch.where(torch.arange(4) < kept, PROBS, 0.0)
    # Not in order, so that the cut has to find its way back.
    order = torch.tensor([2, 0, 3, 1])
    found = frequencies(SamplingOptions(temperature=1.0, top_p=p), PROBS.log()[order])
    assert torch.allclose(found, (expected / expected.sum())[order], atol=0.03)


def test_the_repetition_penalty_works_on_both_signs() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0, -1.5]])
    penalised = SamplingOptions(repetition_penalty=2.0)
    assert choose(logits, penalised, torch.tensor([[0]]), None).item() == 1
    # -1 becomes -2, behind -1.5; and 0 and 1 are halved to 1 and 0.75.
    assert choose(torch.tensor([[-1.0, -1.5]]), penalised, torch.tensor([[0]]), None).item() == 1
    assert choose(logits, penalised, torch.tensor([[0, 1]]), None).item() == 0


def test_the_penalty_forgets_beyond_its_window() -> None:
    logits = torch.tensor([[2.0, 1.5]])
    recent = torch.tensor([[0, 1, 1]])
    assert choose(logits, SamplingOptions(repetition_penalty=2.0, repetition_window=3), recent, None).item() == 0
    assert choose(logits, SamplingOptions(repetition_penalty=1.4, repetition_window=2), recent, None).item() == 0
    one = SamplingOptions(repetition_penalty=2.0, repetition_window=1)
    assert choose(logits, one, torch.tensor([[1, 0]]), None).item() == 1
    none = SamplingOptions(repetition_penalty=2.0, repetition_window=0)
    assert choose(logits, none, torch.tensor([[1, 0]]), None).item() == 0


def test_the_penalty_ignores_ids_outside_the_vocabulary() -> None:
    logits = torch.tensor([[1.0, 0.9]])
    options = SamplingOptions(repetition_penalty=3.0)
    assert choose(logits, options, torch.tensor([[7, -1]]), None).item() == 0
    assert choose(logits, options, torch.zeros(1, 0), None).item() == 0


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        SamplingOptions(temperature=5.0),
        SamplingOptions(temperature=5.0, top_k=3),
        SamplingOptions(temperature=0.01, top_p=0.999),
        SamplingOptions(temperature=2.0, top_k=2, top_p=0.5, repetition_penalty=1.5),
        SamplingOptions(repetition_penalty=100.0),
    ],
)
def test_what_is_illegal_is_never_chosen(options: SamplingOptions) -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in range(40):
        logits = torch.randn(8, 12, generator=torch.Generator().manual_seed(seed)) * 10
        legal = torch.rand(8, 12, generator=torch.Generator().manual_seed(seed)) < 0.3
        legal[:, seed % 12] = True
        recent = torch.randint(0, 12, (8, 5), generator=generator)
        chosen = choose(logits.masked_fill(~legal, -math.inf), options, recent, generator)
        assert legal[torch.arange(8), chosen].all()


def test_a_seed_repeats() -> None:
    logits, options = torch.zeros(1, 1000), SamplingOptions(temperature=1.0)

    def draws(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [int(choose(logits, options, None, generator)) for _ in range(5)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_window", -1),
    ],
)
def test_impossible_options(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field} is {value}"):
        SamplingOptions(**{field: value})  # type: ignore[arg-type]
