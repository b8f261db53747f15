"""Losses on rows that nothing is learned from."""

import json
from pathlib import Path

import pytest
from helpers import stage, tiny_talker, train, training_rows
from training import TIMES
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.data.opening import TrainingData
from anytalk.train.curves import draw_curve


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history/short.jsonl").read_text().splitlines()]


def test_training_with_a_look_is_the_same_training(tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 4)
    settings = stage(tasks={"A1A2": 1.0}, steps=6, log_every=1)
    plain = tiny_talker(tmp_path / "plain", "input_adapter.name=ctc", "input_adapter.options={width: 16}")
    watched = tiny_talker(tmp_path / "watched", "input_adapter.name=ctc", "input_adapter.options={width: 16}")
    train(plain, settings, rows[:2])
    train(watched, settings, rows[:2], held_out=TrainingData(rows=rows[2:]), held_out_every=2)
    learned = [{k: v for k, v in entry.items() if k not in TIMES} for entry in log_of(tmp_path / "watched")]
    looks = [{k for k in entry if k.startswith("held_out.")} for entry in learned]
    assert [bool(names) for names in looks] == [False, True, False, True, False, True]
    assert {"held_out.loss", "held_out.text", "held_out.audio", "held_out.audio0"} <= looks[-1]
    bare = [{k: v for k, v in entry.items() if not k.startswith("held_out.")} for entry in learned]
    straight = [{k: v for k, v in entry.items() if k not in TIMES} for entry in log_of(tmp_path / "plain")]
    assert bare == straight


def test_a_look_on_the_rows_that_are_learned_falls_with_them(tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 2)
    settings = stage(tasks={"A1A2": 1.0}, steps=30, log_every=30, learning_rate=5e-3)
    train(tiny_talker(tmp_path / "t"), settings, rows, held_out=TrainingData(rows=rows), held_out_every=10)
    log = log_of(tmp_path / "t")
    assert [entry["step"] for entry in log] == [10, 20, 30]  # a look is logged whenever the log's turn is
    assert log[-1]["held_out.loss"] < 0.9 * log[0]["held_out.loss"]
    assert log[-1]["held_out.loss"] == pytest.approx(log[-1]["loss"], rel=0.2)
    draw_curve(tmp_path / "c.png", "t", log, {"text": ["text"], "audio": ["audio0", "audio1", "audio2"]})
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_rows_that_are_not_there_are_a_sentence(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t")
    training_rows(tmp_path, 1)
    given = ["train", str(tmp_path / "t"), "--data", str(tmp_path / "rows.jsonl"), "--held-out", str(tmp_path / "no")]
    result = CliRunner().invoke(build_app(), given)
    assert result.exit_code == 1
    assert "--held-out FILE" in result.stderr
