"""The recipes that ship, number by number against their sources, and the DeepSpeed files that ship."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import moved_parts, snapshot, tiny_talker, training_rows

from anytalk.data.opening import TrainingData
from anytalk.grid.tasks import TASKS
from anytalk.model.talk_model import PART_NAMES
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry
from anytalk.train.config import Recipe, StageConfig, find_recipe
from anytalk.train.deepspeed_engine import complete, read_deepspeed
from anytalk.train.loop import TrainingWatcher, train_recipe

NAMES = ["demo", "laptop", "paper", "paper-authors", "single-stage"]
NEW = {"input_adapter", "output_adapter", "heads", "audio_embeddings", "special_tokens"}
DEEPSPEED = Path(__file__).resolve().parent.parent / "examples" / "deepspeed"


def recipe(name: str) -> Recipe:
    return find_recipe(name, default_registry())


def test_every_file_is_registered_under_its_name() -> None:
    folder = files("anytalk_adapters.recipes")
    found = sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))
    registered = default_registry().components("recipe")
    ours = [name for name, offers in registered.items() if offers[0].plugin == "adapters"]
    assert found == ours == NAMES
    assert all(recipe(name).name == name for name in NAMES)
    assert all(offers[0].component.summary for offers in registered.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_the_file_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    """Users begin with a copy."""
    text = files("anytalk_adapters.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert find_recipe(str(tmp_path / "mine.yaml"), default_registry()) == recipe(name)
    assert text.startswith("# "), "a recipe says where its numbers come from"


@pytest.mark.parametrize("name", NAMES)
def test_parts_and_tasks_exist(name: str) -> None:
    for stage in recipe(name).stages:
        assert set(stage.parts) <= set(PART_NAMES)
        assert set(stage.tasks) <= set(TASKS)
        assert "encoder" not in stage.parts


Row = tuple[str, int, int, float, float, int]


# Name, steps, rows, peak and last rate, warm-up; typed by hand.
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        # arXiv 2408.16725, 4.2: 4e-4 to 4e-6, 192 rows, 40,000 steps; fine-tuning 4e-6 to 5e-5.
        (
            "paper",
            [
                ("alignment", 40_000, 192, 4e-4, 4e-6, 1500),
                ("adaption", 40_000, 192, 4e-4, 4e-6, 1500),
                ("multimodal", 40_000, 192, 5e-5, 4e-6, 1500),
                ("annealing", 10_000, 192, 5e-5, 4e-6, 0),
            ],
        ),
        # mini-omni issue 112: recognition 10 to 20 k steps, 1e-3 to 4e-6; 20 to 30 k; 50 to 60 k, 4e-4 to 4e-6.
        (
            "paper-authors",
            [
                ("listen", 15_000, 192, 1e-3, 4e-6, 1500),
                ("speak", 15_000, 192, 1e-3, 4e-6, 1500),
                ("adaption", 25_000, 192, 4e-4, 4e-6, 1500),
                ("multimodal", 55_000, 192, 4e-4, 4e-6, 1500),
                ("annealing", 10_000, 192, 5e-5, 4e-6, 0),
            ],
        ),
        # SLAM-LLM, finetune_s2s_group.sh: 1e-4, warm-up 1,000, 100,000 steps, 6 rows on each of 4 GPUs.
        ("single-stage", [("together", 100_000, 24, 1e-4, 0.0, 1000)]),
        # As it was when docs/experiments.md measured it.
        ("demo", [("listen", 120, 8, 1e-3, 5e-5, 10), ("speak", 160, 8, 2e-3, 5e-5, 10)]),
    ],
)
def test_the_numbers(name: str, rows: list[Row]) -> None:
    found = [
        (s.name, s.steps, s.batch_size, s.learning_rate, s.learning_rate_floor, s.warmup_steps)
        for s in recipe(name).stages
    ]
    assert found == rows


def test_what_the_authors_corrected() -> None:
    stages = {stage.name: stage for stage in recipe("paper-authors").stages}
    assert list(stages)[:2] == ["listen", "speak"], "issue 125: understanding comes first"
    assert set(stages["listen"].tasks) == {"A1T1"}
    assert set(stages["speak"].tasks) == {"T1A1"}
    assert not TASKS["T1A1"].text_in_loss, "issue 101: speaking learns audio only"
    assert not set(stages["listen"].parts) & set(stages["speak"].parts), "issue 110: no shared parameters"
    assert set(stages["listen"].parts) | set(stages["speak"].parts) == NEW
    assert stages["adaption"].losses == {"text": 1.0}, "issue 61: no audio row in the loss"
    assert len(set(stages["adaption"].tasks.values())) == 1, "issue 123: 1:1 inside a batch"
    assert {"A1T1", "T1T2"} <= set(stages["adaption"].tasks)


def test_slam_omnis_loss() -> None:
    """(text + the sum over 3 streams) / 4."""
    (stage,) = recipe("single-stage").stages
    assert stage.losses == {"text": 1 / 4, "audio": 3 / 4}
    assert set(stage.tasks) == {"A1A2"}
    assert set(stage.parts) == NEW | {"backbone"}


def test_the_laptop_moves_the_language_model_by_low_rank_updates_only() -> None:
    stages = recipe("laptop").stages
    assert [s.name for s in stages if "backbone" in s.parts] == ["together"]
    assert set(stages[-1].lora) == {"backbone"}
    assert all(s.batch_size <= 8 and s.max_positions <= 2048 for s in stages)


@pytest.mark.parametrize("name", ["paper-authors", "single-stage", "laptop"])
def test_each_stage_moves_its_parts_and_no_other(name: str, tmp_path: Path) -> None:
    cut = {"steps": 2, "batch_size": 4, "warmup_steps": 0, "learning_rate": 1e-3}
    stages = [s.model_copy(update=cut) for s in recipe(name).stages]
    talker = tiny_talker(tmp_path / "t")
    before: list[Any] = []
    after: list[set[str]] = []

    def plan(stage: StageConfig, report: Any) -> None:
        if before:
            after.append(_moved(before[-1], talker.model))
        before.append(snapshot(talker.model))

    rows = TrainingData(rows=training_rows(tmp_path, 4))
    train_recipe(talker, Recipe(name=name, stages=stages), rows, watcher=TrainingWatcher(plan=plan))
    after.append(moved_parts(before[-1], talker.model) if not stages[-1].lora else set(stages[-1].parts))
    assert after == [set(s.parts) for s in stages]


def _moved(before: Any, model: Any) -> set[str]:
    """:func:`moved_parts`, where the next stage may just have put its low-rank updates in."""
    named = {name: part.state_dict() for name, part in model.parts().items()}
    plain = {n: {k.replace("base_layer.", ""): t for k, t in part.items()} for n, part in named.items()}
    return {n for n, part in before.items() if any(not plain[n][k].equal(t) for k, t in part.items())}


@pytest.mark.parametrize(
    ("file", "number", "offloaded"),
    [
        ("zero1", 1, set()),
        ("zero2", 2, set()),
        ("zero3", 3, set()),
        ("zero2-offload", 2, {"offload_optimizer"}),
        ("zero3-offload", 3, {"offload_optimizer", "offload_param"}),
    ],
)
def test_the_deepspeed_files(file: str, number: int, offloaded: set[str]) -> None:
    pytest.importorskip("deepspeed")
    config = read_deepspeed(DEEPSPEED / f"{file}.json")
    assert set(config) == {"zero_optimization"}, "the loop fills in the rest"
    zero = config["zero_optimization"]
    assert zero["stage"] == number
    assert {key for key in zero if key.startswith("offload")} == offloaded
    # DeepSpeed takes unknown keys without a word.
    model = importlib.import_module("deepspeed.runtime.zero.config").DeepSpeedZeroConfig
    known = {name for key, field in model.model_fields.items() for name in (key, field.alias)}
    assert set(zero) <= known
    assert model(**zero).stage == number
    filled = complete(config, "bf16", 1.0)
    assert filled["zero_optimization"] == zero
    assert filled["bf16"]["enabled"] is True


MIXED = """
name: mixed
stages:
  - name: all
    train: [input_adapter, output_adapter, heads, audio_embeddings, special_tokens, backbone]
    tasks: {A1A2: 1, T1T2: 1}
    steps: 3
    batch_size: 4
    max_positions: 64
"""
"""Passes of one step that use different parts."""


@pytest.mark.slow
def test_every_deepspeed_file_learns_what_one_process_learns(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    training_rows(tmp_path, 6)
    (tmp_path / "mixed.yaml").write_text(MIXED)
    tiny_talker(tmp_path / "attached")
    found = {}
    for file in ("", "zero1", "zero2", "zero3", "zero2-offload", "zero3-offload"):
        shutil.copytree(tmp_path / "attached", talker := tmp_path / f"t-{file}")
        words = ["train", str(talker), "--data", str(tmp_path / "rows.jsonl"), "--recipe", str(tmp_path / "mixed.yaml")]
        words += ["--device", "cpu", *(["--deepspeed", str(DEEPSPEED / f"{file}.json")] if file else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-m", "anytalk", *words], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (talker / "history" / "all.jsonl").read_text().splitlines()
        found[file] = [json.loads(line)["loss"] for line in lines]
    plain = found.pop("")
    assert found == {file: pytest.approx(plain, rel=1e-5) for file in found}


def test_there_are_no_other_deepspeed_files() -> None:
    named = {f"zero{name}.json" for name in ("1", "2", "3", "2-autocast", "2-offload", "3-offload")}
    assert {path.name for path in DEEPSPEED.glob("*.json")} == named
    readme = (DEEPSPEED / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in named)
    assert all(json.loads((DEEPSPEED / name).read_text()) for name in named)


def test_the_recipe_on_the_recipes_page_is_valid() -> None:
    page = (DEEPSPEED.parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)]
    whole = [block for block in blocks if "stages" in block]
    assert [Recipe.model_validate(block).name for block in whole] == ["mine"]
    for block in (block for block in blocks if "hearing" in block):  # of talker.yaml
        assert default_registry().options("hearing", PartRef.model_validate(block["hearing"]))
    for part in (block for block in blocks if not {"stages", "hearing"} & set(block)):
        rest = {"name": "s", "tasks": {"A1T2": 1}, "steps": 1}
        assert StageConfig.model_validate({"train": ["heads"], **rest, **part})
    for name in NAMES:
        steps = f"{sum(s.steps for s in recipe(name).stages):,}"
        assert re.search(rf"^\| `{name}` \|.*\| {steps} \|", page, re.M), f"{name} takes {steps} steps"


def test_recipes_are_read_as_plain_yaml() -> None:
    """No number that YAML takes for text, such as 4e-4."""
    for name in NAMES:
        data = yaml.safe_load(files("anytalk_adapters.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
        for stage in data["stages"]:
            assert all(not isinstance(v, str) for k, v in stage.items() if k != "name")
