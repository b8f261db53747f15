"""A stage that was stopped goes on exactly as if it had not been."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import NEW_PARTS, moved_parts, snapshot, stage, tiny_talker, train, training_rows
from training import assert_same_run, interrupted_after

from anytalk.data.opening import TrainingData
from anytalk.errors import TalkerError
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import Row
from anytalk.train import finish as finish_module
from anytalk.train.checkpoint import StageState, load_checkpoint, save_checkpoint
from anytalk.train.config import Recipe, StageConfig
from anytalk.train.engine import PlainEngine, make_accelerator
from anytalk.train.loop import RunSettings, TrainingWatcher, train_recipe

WHOLE = stage(
    train=[*NEW_PARTS, "backbone"],
    tasks={"A1A2": 1, "A1T1": 2},
    steps=7,
    checkpoint_every=2,
    warmup_steps=2,
    weight_decay=0.1,
    batch_size=4,
    max_positions=120,
)


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return training_rows(tmp_path, 5)


@pytest.fixture
def straight(tmp_path: Path, rows: list[Row]) -> Talker:
    """The talker that was trained in one go."""
    talker = tiny_talker(tmp_path / "straight")
    train(talker, WHOLE, rows)
    return talker


@pytest.mark.parametrize("stops", [[1], [4], [6], [2, 3]])
def test_stopping_changes_nothing(stops: list[int], straight: Talker, rows: list[Row], tmp_path: Path) -> None:
    folder = tmp_path / "t"
    tiny_talker(folder)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            train(load_talker(folder), WHOLE, rows, watcher=interrupted_after(stop))
        assert load_talker(folder).config.history == []
    resumed: list[int] = []
    watcher = TrainingWatcher(resumed=lambda stage, step: resumed.append(step))
    train(load_talker(folder), WHOLE, rows, watcher=watcher)
    assert resumed == [sum(stops)]
    assert_same_run(folder, straight)


def test_the_same_talker_in_memory_may_go_on(straight: Talker, rows: list[Row], tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    with pytest.raises(KeyboardInterrupt):
        train(talker, WHOLE, rows, watcher=interrupted_after(3))
    train(talker, WHOLE, rows)
    assert_same_run(tmp_path / "t", straight)


def interrupt_from_the_watcher(count: list[int]) -> Callable[..., None]:
    def step(_: StageConfig, number: int, metrics: dict[str, float]) -> None:
        if number == 3 and not count:
            count.append(number)
            raise KeyboardInterrupt

    return step


def test_an_interrupt_from_the_watcher(straight: Talker, rows: list[Row], tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    watcher = TrainingWatcher(step=interrupt_from_the_watcher([]))
    with pytest.raises(KeyboardInterrupt):
        train(talker, WHOLE, rows, watcher=watcher)
    train(load_talker(tmp_path / "t"), WHOLE, rows, watcher=watcher)
    assert_same_run(tmp_path / "t", straight)


@pytest.mark.parametrize("place", ["before", "after"])
def test_ctrl_c_in_the_middle_of_a_step(
    place: str, straight: Talker, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker, calls = tiny_talker(tmp_path / "t"), []
    step = torch.optim.AdamW.step

    def pressed(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3 and place == "before":
            os.kill(os.getpid(), signal.SIGINT)
        result = step(self, *args, **kwargs)
        if len(calls) == 3 and place == "after":
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", pressed)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(talker, WHOLE, rows)
    assert len(calls) == 3, "the step is finished, the next one isn't begun"
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    train(load_talker(tmp_path / "t"), WHOLE, rows)
    assert_same_run(tmp_path / "t", straight)


def test_a_kill_goes_back_to_the_last_checkpoint(
    straight: Talker, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = tiny_talker(tmp_path / "t")

    def killed(stage: StageConfig, number: int, metrics: dict[str, float]) -> None:
        if number == 5:
            raise SystemExit(137)

    with pytest.raises(SystemExit):
        train(talker, WHOLE, rows, watcher=TrainingWatcher(step=killed))
    resumed: list[int] = []
    watcher = TrainingWatcher(resumed=lambda stage, step: resumed.append(step))
    train(load_talker(tmp_path / "t"), WHOLE, rows, watcher=watcher)
    assert resumed == [4]
    assert_same_run(tmp_path / "t", straight)


def stopped(folder: Path, rows: list[Row], stop: int = 3) -> Talker:
    tiny_talker(folder)
    with pytest.raises(KeyboardInterrupt):
        train(load_talker(folder), WHOLE, rows, watcher=interrupted_after(stop))
    return load_talker(folder)


def test_other_settings_are_refused_until_restart(straight: Talker, rows: list[Row], tmp_path: Path) -> None:
    talker = stopped(tmp_path / "t", rows)
    other = WHOLE.model_copy(update={"learning_rate": 5e-4, "steps": 9})
    with pytest.raises(TalkerError, match=r"other settings \(learning_rate, steps\)") as caught:
        train(talker, other, rows)
    assert "--restart" in caught.value.hint
    resumed: list[int] = []
    watcher = TrainingWatcher(resumed=lambda stage, step: resumed.append(step))
    train(load_talker(tmp_path / "t"), WHOLE, rows, restart=True, watcher=watcher)
    assert resumed == []
    assert_same_run(tmp_path / "t", straight)


def test_a_checkpoint_of_other_parts_is_refused(rows: list[Row], tmp_path: Path) -> None:
    stopped(tmp_path / "t", rows)
    described = (tmp_path / "t/talker.yaml").read_text()
    other = tiny_talker(tmp_path / "other", "input_adapter.options.hidden_width=48")
    shutil.copytree(tmp_path / "t/history", tmp_path / "other/history")
    assert (tmp_path / "other/talker.yaml").read_text() != described
    with pytest.raises(TalkerError, match="holds other parameters than the stage trains: input_adapter") as caught:
        train(other, WHOLE, rows)
    assert "--restart" in caught.value.hint


@pytest.mark.parametrize("left", ["old beside the new", "old alone", "half a new one"])
def test_what_a_killed_save_leaves_is_no_trap(left: str, straight: Talker, rows: list[Row], tmp_path: Path) -> None:
    talker = stopped(tmp_path / "t", rows)
    checkpoint = tmp_path / "t" / "history" / "short.checkpoint"
    old = checkpoint.with_name(".short.checkpoint.old")
    if left == "old alone":
        checkpoint.rename(old)
    else:
        beside = old if left.startswith("old") else checkpoint.with_name(".short.checkpoint.partial")
        beside.mkdir()
        (beside / "state.json").write_text("{}")
    train(talker, WHOLE, rows)
    assert_same_run(tmp_path / "t", straight)


def test_restart_forgets_what_a_killed_save_left(straight: Talker, rows: list[Row], tmp_path: Path) -> None:
    talker = stopped(tmp_path / "t", rows)
    checkpoint = tmp_path / "t" / "history" / "short.checkpoint"
    checkpoint.rename(checkpoint.with_name(".short.checkpoint.old"))
    resumed: list[int] = []
    watcher = TrainingWatcher(resumed=lambda stage, step: resumed.append(step))
    train(talker, WHOLE, rows, restart=True, watcher=watcher)
    assert resumed == []


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_a_damaged_checkpoint_is_a_sentence(file: str, rows: list[Row], tmp_path: Path) -> None:
    talker = stopped(tmp_path / "t", rows)
    path = tmp_path / "t" / "history" / "short.checkpoint" / file
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(TalkerError, match="is damaged"):
        train(talker, WHOLE, rows)


def small_engine() -> PlainEngine:
    """An engine over two numbers that have moved once."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    engine = PlainEngine(make_accelerator("no", True), SimpleNamespace(model=model), optimizer, 1.0)  # type: ignore[arg-type]
    model(torch.ones(1, 2)).sum().backward()
    engine.step(skip=False)
    return engine


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, folder = small_engine(), tmp_path / "c"
    kept = [p.detach().clone() for p in engine.parameters.values()]
    save_checkpoint(folder, StageState({"a": 1}, {}, step=3), engine)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    engine.optimizer.step()
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(TalkerError, match="No space left"):
        save_checkpoint(folder, StageState({"a": 1}, {}, step=4), engine)
    monkeypatch.undo()
    progress = load_checkpoint(folder, StageState({"a": 1}, {}), engine)
    assert progress is not None
    assert progress.step == 3
    assert all(torch.equal(p, k) for p, k in zip(engine.parameters.values(), kept, strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    engine = small_engine()
    save_checkpoint(tmp_path / "c", StageState({}, {"rows/A1A2": 5}, step=3), engine)
    with pytest.raises(TalkerError, match=r"other data \(rows/A1A2\)"):
        load_checkpoint(tmp_path / "c", StageState({}, {"rows/A1A2": 6}), engine)


# Recipes as one job


RECIPE = Recipe(
    stages=[
        stage(name="one", train=["input_adapter"], tasks={"A1T2": 1}, steps=2),
        stage(name="two", train=["heads", "backbone"], tasks={"T1A2": 1}, steps=3),
        stage(name="three", train=["output_adapter"], tasks={"T1A2": 1}, steps=2),
    ]
)


def test_a_recipe_goes_on_at_the_stage_and_step_it_was_stopped(rows: list[Row], tmp_path: Path) -> None:
    whole = tiny_talker(tmp_path / "whole")
    train_recipe(whole, RECIPE, TrainingData(rows=rows))
    seen: list[tuple[str, int]] = []

    def step(stage: StageConfig, number: int, metrics: dict[str, float]) -> None:
        seen.append((stage.name, number))
        if seen == [("one", 1), ("one", 2), ("two", 1), ("two", 2)]:
            raise KeyboardInterrupt

    tiny_talker(tmp_path / "t")
    with pytest.raises(KeyboardInterrupt):
        train_recipe(load_talker(tmp_path / "t"), RECIPE, TrainingData(rows=rows), watcher=TrainingWatcher(step=step))
    assert [r.name for r in load_talker(tmp_path / "t").config.history] == ["one"]
    records = train_recipe(
        load_talker(tmp_path / "t"), RECIPE, TrainingData(rows=rows), watcher=TrainingWatcher(step=step)
    )
    assert seen[4:] == [("two", 3), ("three", 1), ("three", 2)]
    assert [r.name for r in records] == ["two", "three"]
    loaded = load_talker(tmp_path / "t")
    assert [r.name for r in loaded.config.history] == ["one", "two", "three"]
    assert moved_parts(snapshot(whole.model), loaded.model) == set()
    assert train_recipe(loaded, RECIPE, TrainingData(rows=rows)) == []


def test_restart_trains_all_stages_again(rows: list[Row], tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    train_recipe(talker, RECIPE, TrainingData(rows=rows))
    seen: list[str] = []
    watcher = TrainingWatcher(plan=lambda stage, report: seen.append(stage.name))
    train_recipe(talker, RECIPE, TrainingData(rows=rows), RunSettings(restart=True), watcher)
    assert seen == ["one", "two", "three"]
    assert len(load_talker(tmp_path / "t").config.history) == 6


def test_a_save_that_breaks_at_the_end_of_a_stage_can_be_taken_up(
    straight: Talker, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = tiny_talker(tmp_path / "t")

    def full(*_: object, **__: object) -> None:
        raise TalkerError("the disk is full")

    monkeypatch.setattr(finish_module, "save_talker", full)
    with pytest.raises(TalkerError, match="disk is full"):
        train(talker, WHOLE, rows)
    monkeypatch.undo()
    assert load_talker(tmp_path / "t").config.history == []
    train(load_talker(tmp_path / "t"), WHOLE, rows)
    assert_same_run(tmp_path / "t", straight)
