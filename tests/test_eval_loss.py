"""Measure `loss`: what training would say of rows that nothing was learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_parts import questions, saved_talker, suite_of
from helpers import stage, train, training_rows

from anytalk.decode.engine import Generation
from anytalk.evaluate.lab import Lab
from anytalk.evaluate.run import run_measure, run_suite


@pytest.mark.parametrize("task", ["A1A2", "T1A1", "T1T2"])
@pytest.mark.parametrize("pattern", ["delay", "flatten"])
def test_losses_are_those_that_training_logs(tmp_path: Path, task: str, pattern: str) -> None:
    rows = training_rows(tmp_path, 3)
    talker = saved_talker(tmp_path / "t", f"grid.pattern={pattern}")
    suite = suite_of(tmp_path, {"kind": "loss", "task": task, "data": str(tmp_path / "rows.jsonl")})
    result = run_suite(talker, suite, tmp_path / "report").results[0]
    assert result.status == "ok", result.reason
    assert "nats_per_token" in (tmp_path / "report/report.md").read_text()
    # A step of the same three rows: what it logs is the loss before it.
    still = stage(tasks={task: 1.0}, steps=1, batch_size=3, learning_rate=1e-12, learning_rate_floor=0.0)
    train(talker, still, rows)
    logged = json.loads((tmp_path / "t/history/short.jsonl").read_text().splitlines()[0])
    for name in ("text", "audio"):
        if name in result.figures and not (name == "audio" and pattern == "delay"):
            assert result.figures[name].value == pytest.approx(logged[name], rel=1e-4)
    assert ("text" in result.figures, "audio" in result.figures) == (task != "T1A1", task != "T1T2")
    assert result.headline in result.figures
    if "audio" in result.figures:
        frames = [item["frames"] for item in result.items]
        assert frames == [4, 4, 4]
        total = sum(item["audio_nats"] for item in result.items)
        assert result.figures["audio_per_frame"].value == pytest.approx(total / sum(frames))
        streams = [name for name in result.items[0] if name.startswith("audio") and name[5].isdigit()]
        assert len(streams) == 2 * (3 if pattern == "delay" else 1)


def test_data_without_the_task_is_a_sentence(tmp_path: Path) -> None:
    manifest = questions(tmp_path, [{"question_text": "Why?", "answer_text": "So."}])
    talker = saved_talker(tmp_path / "t")
    suite = suite_of(manifest, {"kind": "loss", "task": "t1a1", "data": str(manifest)})
    result = run_measure(Lab(talker, suite, tmp_path / "report"), suite.measures[0])
    assert (result.status, "serves task T1A1" in result.reason) == ("failed", True)


@pytest.mark.parametrize("kind", ["spoken_answers", "spoken_qa"])
@pytest.mark.parametrize("wanted", [True, False])
def test_text_of_a_spoken_answer_has_a_row_of_its_own_if_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, wanted: bool
) -> None:
    measure = {"kind": kind, "ask": ["text"], "batch_parallel": wanted, **({"hear": True} if "qa" in kind else {})}
    manifest = questions(tmp_path, [{"question_text": "Q?", "answer_text": "Rome"}])
    suite = suite_of(manifest, measure)
    rows: list[int] = []
    begin = Generation.__init__

    def counted(
        self: Generation, model: Any, pattern: Any, options: Any, prompts: Any, *given: Any, **how: Any
    ) -> None:
        rows.append(len(prompts))
        begin(self, model, pattern, options, prompts, *given, **how)

    monkeypatch.setattr(Generation, "__init__", counted)
    assert run_measure(Lab(saved_talker(tmp_path / "t"), suite, tmp_path / "r"), suite.measures[0]).status == "ok"
    assert rows == [2 if wanted else 1]
