"""Memory: the arithmetic against the ZeRO paper's table, and what is measured against what can be counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import NEW_PARTS, model_folder, stage, tiny_talker
from torch.nn import functional as F

from anytalk.cli import train_plan
from anytalk.cli.train_plan import count_stage, plan_lines, print_plan
from anytalk.errors import ConfigError
from anytalk.grid.tasks import TASKS
from anytalk.model.attach import attach
from anytalk.model.talker import Talker
from anytalk.train.activations import LiveBytes, measure_activations
from anytalk.train.config import Recipe
from anytalk.train.freeze import apply_freeze
from anytalk.train.memory import DeviceMemory, Growth, StageParameters, growth, peak, plain_memory, zero_memory

GB = 1e9


# Table 1 of arXiv 1910.02054: GB of model states on each device in mixed precision with Adam.
@pytest.mark.parametrize(
    ("parameters", "world", "expected"),
    [
        (7.5e9, 1, (120, 120, 120)),
        (7.5e9, 4, (52.5, 41.3, 30)),
        (7.5e9, 16, (35.6, 21.6, 7.5)),
        (7.5e9, 64, (31.4, 16.6, 1.88)),
        (7.5e9, 256, (30.4, 15.4, 0.47)),
        (7.5e9, 1024, (30.1, 15.1, 0.12)),
        (128e9, 4, (896, 704, 512)),
        (128e9, 16, (608, 368, 128)),
        (128e9, 64, (536, 284, 32)),
    ],
)
def test_zero_is_the_papers_table(parameters: float, world: int, expected: tuple[float, ...]) -> None:
    counts = StageParameters(trainable=int(parameters), frozen=0)
    found = [zero_memory(counts, zero_stage, world, "bf16").total / GB for zero_stage in (1, 2, 3)]
    assert found == pytest.approx(expected, rel=5e-3, abs=6e-3)


MILLION = 10**6
COUNTS = StageParameters(trainable=10 * MILLION, frozen=100 * MILLION, beside=8 * MILLION)


# Megabytes, by hand: parameters, gradients, optimizer.
@pytest.mark.parametrize(
    ("zero_stage", "world", "precision", "expected"),
    [
        (0, 1, "no", (4 * 118, 4 * 10, 8 * 10)),
        (1, 1, "no", (4 * 118, 4 * 10, 12 * 10)),
        (1, 2, "no", (4 * 118, 40, 60)),
        (2, 2, "no", (4 * 118, 20, 60)),
        (3, 2, "no", (4 * 55 + 32, 20, 60)),
        (1, 8, "bf16", (2 * 110 + 32, 20, 15)),
        (2, 8, "bf16", (2 * 110 + 32, 2.5, 15)),
        (3, 8, "fp16", (27.5 + 32, 2.5, 15)),
    ],
)
def test_frozen_parameters_have_no_gradients(
    zero_stage: int, world: int, precision: str, expected: tuple[float, ...]
) -> None:
    found = zero_memory(COUNTS, zero_stage, world, precision, 7) if zero_stage else plain_memory(COUNTS, 7)
    megabytes = (found.parameters / MILLION, found.gradients / MILLION, found.optimizer / MILLION)
    assert megabytes == expected
    assert found.activations == 7
    assert found.total == sum(expected) * MILLION + 7


def test_a_share_is_rounded_up() -> None:
    assert zero_memory(StageParameters(trainable=3, frozen=0), 3, 2) == DeviceMemory(6, 6, 18, 0)
    assert zero_memory(StageParameters(trainable=1, frozen=0), 3, 8, "bf16") == DeviceMemory(1, 1, 2, 0)


@pytest.mark.parametrize(
    ("zero_stage", "world", "precision"), [(0, 1, "no"), (4, 1, "no"), (1, 0, "no"), (1, 1, "int8")]
)
def test_a_plan_that_cannot_be_made_is_a_sentence(zero_stage: int, world: int, precision: str) -> None:
    with pytest.raises(ConfigError, match=f"ZeRO stage {zero_stage} on {world} devices in precision '{precision}'"):
        zero_memory(COUNTS, zero_stage, world, precision)


def test_a_line_through_two_measurements() -> None:
    assert growth((10, 130), (20, 230)) == Growth(fixed=30, per_position=10)
    assert Growth(30, 10).at(100) == 1030
    assert Growth(-30, 10).at(1) == 0


def test_each_moment_is_extended_for_itself() -> None:
    # A fixed 900 at the end hides in small passes what grows at the beginning.
    assert peak((10, [100, 900]), (20, [200, 900]), 1000) == 10_000
    assert peak((10, [100, 900]), (20, [200, 900]), 50) == 900
    # Other programs: in proportion.
    assert peak((10, [100]), (20, [200, 900]), 1000) == 45_000


def test_live_bytes_are_those_of_the_tensors_that_are_held() -> None:
    given = torch.ones(1000)
    with LiveBytes() as live:
        kept = given * 2  # 4000
        view = kept[:10]  # none
        kept.add_(1)  # none
        given.add_(1)  # none: it was there before
        dropped = kept + 1  # 8000
        del dropped
        again = given.exp()  # 8000
        del kept, view
        last = torch.zeros(10)  # 4040
    assert live.moments == [4000, 8000, 8000, 4040]
    assert again.sum() > last.sum()


def test_backward_is_counted_too() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    given = torch.ones(50, 100)
    with LiveBytes() as live:
        F.relu(given @ weight).sum().backward()
    # Held when the weight's gradient is made: product or its gradient, and the gradient itself.
    assert 40_000 + 20_000 <= max(live.moments) <= 40_000 + 3 * 20_000 + 100


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    return tiny_talker(tmp_path_factory.mktemp("plan") / "t")


def activations(talker: Talker, *tasks: str, precision: str = "no", **changes: Any) -> int:
    settings = stage(tasks=dict.fromkeys(tasks, 1.0), **changes)
    apply_freeze(talker.model, settings.train)
    return measure_activations(talker, settings, [TASKS[name] for name in tasks], precision)


def test_activations_grow_with_the_pass_and_with_what_trains(talker: Talker) -> None:
    small = activations(talker, "A1A2", max_positions=1000)
    large = activations(talker, "A1A2", max_positions=4000)
    assert 3.5 * small < large < 4.5 * small
    assert activations(talker, "T1T2", train=["backbone"]) > 1.3 * activations(
        talker, "A1T2", train=["special_tokens:text"]
    )
    both = activations(talker, "A1A2", "A1T2", max_positions=4000)
    assert both == max(large, activations(talker, "A1T2", max_positions=4000))


def test_what_is_saved_for_backward_is_part_of_what_is_measured(talker: Talker) -> None:
    """The logits of a text answer, their logarithms and their gradient are held at the same time: 3 x n x V floats."""
    settings = stage(tasks={"T1T2": 1.0}, train=["backbone"], max_positions=100_000)
    apply_freeze(talker.model, settings.train)
    found = measure_activations(talker, settings, [TASKS["T1T2"]])
    width = talker.model.backbone.width
    assert found > 100_000 * 4 * width * 4, "at least a few states per block"
    assert found < 100_000 * 4 * 100 * width


def test_distillation_and_bf16_can_be_planned(talker: Talker) -> None:
    plain = activations(talker, "A1T2", train=["input_adapter", "special_tokens"])
    taught = activations(
        talker, "A1T2", train=["input_adapter", "special_tokens"], losses={"text": 1.0, "distill": 1.0}
    )
    assert taught > plain
    assert activations(talker, "A1A2", precision="bf16") > 0


# Newer transformers call it activation_checkpointing_enable.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_:FutureWarning")
def test_checkpointing_keeps_less(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "llama")
    parts = ["encoder={name: tiny}", "codec={name: tiny}", "output_adapter.options.num_blocks=1"]
    talker = attach(str(folder), tmp_path / "t", assignments=parts)
    whole = activations(talker, "A1T2", train=["backbone"])
    less = activations(talker, "A1T2", train=["backbone"], gradient_checkpointing=True)
    assert less < 0.9 * whole


def test_an_encoder_that_trains_runs_on_sound(talker: Talker) -> None:
    assert activations(talker, "A1T2", train=["encoder"]) > 0
    assert talker.model.encoder is not None


def test_measuring_leaves_the_talker_as_it_was(talker: Talker) -> None:
    before = {name: p.detach().clone() for name, p in talker.model.named_parameters()}
    random = torch.get_rng_state()
    activations(talker, "A1A2", train=[*NEW_PARTS, "backbone"])
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in talker.model.named_parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert talker.model.encoder is not None


def test_parameters_are_counted_by_what_happens_to_them(talker: Talker) -> None:
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in talker.model.parts().items()}
    everything = sum(sizes.values())
    found = count_stage(talker, stage(train=["heads"]))
    assert found == StageParameters(sizes["heads"], everything - sizes["heads"] - sizes["encoder"], sizes["encoder"])
    taught = count_stage(talker, stage(train=["backbone"], losses={"text": 1.0, "distill": 1.0}, tasks={"A1T2": 1.0}))
    assert taught.trainable == sizes["backbone"]
    assert taught.beside == sizes["encoder"] + sizes["backbone"], "the parent is a second language model"
    assert count_stage(talker, stage(train=["encoder"])).beside == 0


def test_the_plan_shows_each_stage_and_each_engine(
    talker: Talker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    monkeypatch.setattr(train_plan, "out", Console(width=140))
    low_rank = stage(name="low", train=["backbone"], lora={"backbone": {"rank": 2}}, tasks={"T1T2": 1.0})
    names = list(talker.model.backbone.state_dict())
    print_plan(talker, Recipe(stages=[stage(name="first"), low_rank]), "bf16")
    said = capsys.readouterr().out
    assert said.count("ZeRO 3, 8 devices") == said.count("one process, or one of several") == 2
    assert "Stage 'first', precision bf16" in said
    assert list(talker.model.backbone.state_dict()) == names, "low-rank updates are gone again"


def test_the_lines_of_a_plan() -> None:
    lines = dict(plan_lines(COUNTS, 7, "bf16"))
    assert list(lines) == [
        "one process, or one of several",
        *(f"ZeRO {z}, {w}" for z in (1, 2, 3) for w in ("1 device", "2 devices", "8 devices")),
    ]
    assert lines["one process, or one of several"] == plain_memory(COUNTS, 7)
    assert lines["ZeRO 3, 8 devices"] == zero_memory(COUNTS, 3, 8, "bf16", 7)
