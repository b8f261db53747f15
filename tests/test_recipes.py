"""Recipes as data: the two that are registered, and files of users."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import NEW_PARTS, moved_parts, snapshot, tiny_talker, training_rows

from anytalk.data.opening import TrainingData
from anytalk.errors import ConfigError, UnknownNameError
from anytalk.grid.tasks import TASKS
from anytalk.model.talk_model import PART_NAMES
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.registry import default_registry
from anytalk.train.config import Recipe, StageConfig, find_recipe
from anytalk.train.loop import TrainingWatcher, train_recipe
from anytalk_adapters.recipes import DEMO, PAPER

EVERYTHING = {*NEW_PARTS, "backbone"}


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = find_recipe("paper", default_registry())
    assert [s.name for s in recipe.stages] == ["alignment", "adaption", "multimodal", "annealing"]
    assert [set(s.train) for s in recipe.stages] == [set(NEW_PARTS), {"backbone"}, EVERYTHING, EVERYTHING]
    assert [s.batch_size for s in recipe.stages] == [192] * 4
    assert [s.learning_rate for s in recipe.stages] == [4e-4, 4e-4, 5e-5, 5e-5]
    assert all(s.learning_rate_floor == 4e-6 for s in recipe.stages)
    assert [s.warmup_steps for s in recipe.stages[:3]] == [1500] * 3
    assert set(recipe.stages[1].tasks) == {"A1T1", "T1T2", "A1T2"}
    assert set(recipe.stages[3].tasks) == {"A1A2"}


def test_the_demo_recipe_never_touches_the_language_model() -> None:
    recipe = find_recipe("demo", default_registry())
    assert all("backbone" not in s.train for s in recipe.stages)
    assert set().union(*(s.train for s in recipe.stages)) == set(NEW_PARTS)


@pytest.mark.parametrize("data", [PAPER, DEMO], ids=["paper", "demo"])
def test_each_stage_moves_its_parts_and_no_other(data: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.model_validate(data)
    cut = {"steps": 2, "batch_size": 4, "warmup_steps": 0, "learning_rate": 1e-3}
    short = Recipe(name=recipe.name, stages=[s.model_copy(update=cut) for s in recipe.stages])
    talker = tiny_talker(tmp_path / "t")
    before: list[Any] = []
    after: list[set[str]] = []

    def plan(stage: StageConfig, report: Any) -> None:
        if before:
            after.append(moved_parts(before[-1], talker.model))
        before.append(snapshot(talker.model))

    train_recipe(talker, short, TrainingData(rows=training_rows(tmp_path, 4)), watcher=TrainingWatcher(plan=plan))
    after.append(moved_parts(before[-1], talker.model))
    assert after == [set(s.train) for s in recipe.stages]
    assert saved_as_in_memory(talker, tmp_path / "t")


def saved_as_in_memory(talker: Talker, folder: Path) -> bool:
    return not moved_parts(snapshot(talker.model), load_talker(folder).model)


def test_recipes_name_parts_and_tasks_that_exist() -> None:
    for data in (PAPER, DEMO):
        for stage in Recipe.model_validate(data).stages:
            assert set(stage.train) <= set(PART_NAMES)
            assert set(stage.tasks) <= set(TASKS)


STAGE = {"name": "s", "train": ["heads"], "tasks": {"T1A2": 1}, "steps": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 3}, "step"),
        ({"steps": 0}, "steps"),
        ({"train": []}, "train"),
        ({"tasks": {"T1A2": 0}}, "task weights must be above 0"),
        ({"learning_rate_floor": 1.0}, "learning_rate_floor is above learning_rate"),
        ({"batch_size": "many"}, "batch_size"),
        ({"losses": {"text": -1}}, "the weight of loss 'text' is below 0"),
        ({"losses": {"text": 0}}, "no loss has a weight above 0"),
        ({"losses": {}}, "no loss has a weight above 0"),
        ({"stream_weights": [0, 0, 0]}, "stream_weights"),
        ({"stream_weights": [1, -1, 1]}, "stream_weights"),
        ({"stream_weights": []}, "stream_weights"),
        ({"max_padding": 1.0}, "max_padding"),
        ({"seed": -1}, "seed"),
        ({"lora": {"heads": {"rank": 4}}}, "lora is for backbone and encoder, not 'heads'"),
        ({"lora": {"backbone": {"rank": 4}}}, "lora names 'backbone', which `train` doesn't"),
        ({"train": ["backbone"], "lora": {"backbone": {"ranks": 4}}}, "ranks"),
    ],
)
def test_a_wrong_stage_is_a_sentence(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "stages": [STAGE]}))
    assert find_recipe(str(path), default_registry()).stages[0] == StageConfig.model_validate(STAGE)
    path.write_text(yaml.safe_dump({"stages": [{**STAGE, **change}]}))
    with pytest.raises(ConfigError) as caught:
        find_recipe(str(path), default_registry())
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages: [", "can.t be read as YAML"),
        ("", "not well-formed"),
        ("stages: []", "stages"),
        (yaml.safe_dump({"stages": [STAGE, STAGE]}), "two stages have the same name"),
    ],
)
def test_a_wrong_file_is_a_sentence(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        find_recipe(str(path), default_registry())


def test_an_unknown_recipe_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        find_recipe("papers", default_registry())
    with pytest.raises(UnknownNameError, match="doesn't exist"):
        find_recipe(str(tmp_path / "none.yaml"), default_registry())
