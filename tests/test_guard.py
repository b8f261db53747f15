"""A step that must not be taken is left out, counted, and when it happens again and again, named."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import NEW_PARTS, moved_parts, snapshot, stage, tiny_talker, train, training_rows

from anytalk.errors import ConfigError
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import Row
from anytalk.train import stage as stage_module
from anytalk.train.config import StageConfig
from anytalk.train.guard import LossGuard
from anytalk.train.loop import TrainingWatcher
from anytalk.train.losses import LossModule

STAGE = stage(train=[*NEW_PARTS, "backbone"], steps=7, batch_size=4, checkpoint_every=2, max_skips=2)


# The guard alone


def test_an_explosion_is_a_multiple_of_the_running_mean() -> None:
    guard = LossGuard(stage(explosion=10.0))
    assert not guard.refuses(1e9), "nothing is known before the first step"
    assert guard.refuses(math.inf)
    assert guard.refuses(math.nan)
    guard.took(5.0)
    assert guard.mean_loss == 5.0
    assert not guard.refuses(50.0)
    assert guard.refuses(50.1)
    guard.took(10.0)
    assert guard.mean_loss == pytest.approx(0.98 * 5 + 0.02 * 10)
    small = LossGuard(stage(explosion=10.0), mean_loss=0.01)
    assert not small.refuses(9.9), "below one nat nothing explodes"
    assert small.refuses(10.1)


def test_only_steps_in_a_row_stop_a_stage() -> None:
    guard = LossGuard(stage(name="align", max_skips=2), mean_loss=3.0, skipped=4)
    for step in (1, 2, 4, 5):
        guard.left_out(step, math.nan, math.nan, ["a"])
        if step == 2:
            guard.took(3.0)
    assert guard.skipped == 8
    with pytest.raises(ConfigError) as caught:
        guard.left_out(6, 2.0, math.inf, [f"row {i}" for i in range(10)])
    assert caught.value.message.startswith("stage 'align' stopped at step 7: the gradient's norm is inf, and 3 steps")
    assert caught.value.message.endswith("row 0, row 1, row 2, row 3, row 4, row 5, row 6, row 7 and 2 more")
    assert "the last checkpoint is intact" in caught.value.hint
    with pytest.raises(ConfigError, match="at step 1: the loss is nan, and 1 steps"):
        LossGuard(stage(max_skips=0)).left_out(0, math.nan, math.nan, ["a"])


# The guard in a stage


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return training_rows(tmp_path, 4)


Change = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def nan_loss(loss: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return loss * math.nan, sums * math.nan


def exploded_loss(loss: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return loss * 1e4, sums * 1e4


def nan_gradient(loss: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    loss.register_hook(lambda gradient: gradient * math.nan)
    return loss, sums


def breaks(monkeypatch: pytest.MonkeyPatch, change: Change, steps: set[int]) -> None:
    """Change the loss of these steps (from 1); the test's steps have one pass each."""
    forward, calls = LossModule.forward, []

    def changed(self: LossModule, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        loss, sums = forward(self, *args)
        return change(loss, sums) if len(calls) in steps else (loss, sums)

    monkeypatch.setattr(LossModule, "forward", changed)


@pytest.mark.parametrize("change", [nan_loss, exploded_loss, nan_gradient])
def test_one_bad_step_moves_nothing(
    change: Change, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker, made, seen = tiny_talker(tmp_path / "t"), [], []
    make = stage_module.make_optimizer
    monkeypatch.setattr(stage_module, "make_optimizer", lambda *a, **k: made.append(make(*a, **k)) or made[-1])
    breaks(monkeypatch, change, {3})

    def step(_: StageConfig, number: int, metrics: dict[str, float]) -> None:
        state = {(i, k): v.clone() for i, s in made[0].state_dict()["state"].items() for k, v in s.items()}
        seen.append((snapshot(talker.model), state, metrics))

    train(talker, STAGE, rows, TrainingWatcher(step=step))
    assert [metrics["skipped"] for _, _, metrics in seen] == [0, 0, 1, 1, 1, 1, 1]
    moved = [_moved(before, after) for (before, *_), (after, *_) in itertools.pairwise(seen)]
    assert moved == [True, False, True, True, True, True]
    (_, before, _), (_, after, _) = seen[1:3]
    assert before
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(bool(t.isfinite().all()) for part in seen[-1][0].values() for t in part.values())
    assert all(math.isfinite(value) for _, _, metrics in seen for value in metrics.values())
    assert ("loss" in seen[2][2]) == (change is not nan_loss)
    assert ("grad_norm" in seen[2][2]) is False


def _moved(before: dict[str, dict[str, torch.Tensor]], after: dict[str, dict[str, torch.Tensor]]) -> bool:
    return any(not torch.equal(t, after[name][key]) for name, part in before.items() for key, t in part.items())


def test_a_skipped_step_leaves_files_that_others_can_read(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, nan_loss, {1, 7})
    record = train(tiny_talker(tmp_path / "t"), STAGE, rows)
    assert math.isfinite(record.loss_first)
    assert math.isfinite(record.loss_last)

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    text = (tmp_path / "t" / "history" / "short.jsonl").read_text()
    log = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert [entry["skipped"] for entry in log] == [1, 1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("change", [nan_loss, nan_gradient])
def test_bad_steps_in_a_row_stop_with_the_last_checkpoint_whole(
    change: Change, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = tiny_talker(tmp_path / "straight")
    train(straight, STAGE, rows)
    tiny_talker(tmp_path / "t")
    breaks(monkeypatch, change, {3, 4, 5, 6, 7})
    with pytest.raises(ConfigError, match=r"stopped at step 5: the .* is nan, and 3 steps in a row .*: rows\.jsonl:"):
        train(load_talker(tmp_path / "t"), STAGE, rows)
    monkeypatch.undo()
    # The checkpoint of step 4 holds the two steps that were left out: the run goes on behind them, unharmed.
    loaded, resumed = load_talker(tmp_path / "t"), []
    record = train(loaded, STAGE, rows, TrainingWatcher(resumed=lambda stage, step: resumed.append(step)))
    assert resumed == [4]
    assert math.isfinite(record.loss_last)
    assert _finite(loaded)
    assert moved_parts(snapshot(straight.model), loaded.model)


def _finite(talker: Talker) -> bool:
    return all(bool(p.isfinite().all()) for p in talker.model.parameters())
