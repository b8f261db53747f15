"""Predictors of opinion scores: the packages are optional, so their insides are played by stand-ins."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from eval_parts import RATE_HZ, lab_of, questions, reply, script, suite_of

from anytalk.errors import AudioError, PluginError, UnknownNameError
from anytalk.evaluate import mos
from anytalk.evaluate.mos import Dnsmos, load_predictor
from anytalk.evaluate.run import run_measure


def test_an_unknown_predictor() -> None:
    with pytest.raises(UnknownNameError, match="unknown predictor 'utmos'"):
        load_predictor("utmos")


@pytest.mark.parametrize(("name", "package"), [("distillmos", "distillmos==0.9.1"), ("dnsmos", "speechmos==0.0.1.1")])
def test_a_missing_package_says_what_to_install(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distillmos", None)
    monkeypatch.setattr(mos, "find_spec", lambda _: None)
    with pytest.raises(PluginError, match=f"'{name}' is not installed") as caught:
        load_predictor(name)
    assert caught.value.hint.startswith(f"pip install --no-deps {package}")
    assert "torchaudio" not in sys.modules


def fake_distillmos(monkeypatch: pytest.MonkeyPatch, seen: list[Any]) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            print("weights loaded")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape))
            return 1 + 4 * x.abs().amax(dim=1, keepdim=True)

    module = types.ModuleType("distillmos")
    module.ConvTransformerSQAModel = Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "distillmos", module)


def test_distillmos_hears_16_khz_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    fake_distillmos(monkeypatch, seen)
    predictor = load_predictor("distillmos")
    assert predictor.score(np.full(16_000, 0.5, np.float32), 16_000) == pytest.approx(3.0)
    predictor.score(np.full(8_000, 0.5, np.float32), 8_000)
    assert seen == [(1, 16_000), (1, 16_000)]
    assert capsys.readouterr().out == ""
    with pytest.raises(AudioError, match="silence"):
        predictor.score(np.zeros(100, np.float32), 16_000)


def test_dnsmos_takes_windows_of_nine_seconds() -> None:
    class Session:
        shapes: list[Any] = []  # noqa: RUF012

        def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[Any]:
            self.shapes.append(inputs["input_1"].shape)
            return [np.array([[9.0, 9.0, float(len(self.shapes))]])]

    predictor = Dnsmos.__new__(Dnsmos)
    predictor._session = Session()
    # 1 s is repeated to 9 s and more: one window, raw 1 -> -0.06766283 + 1.11546468 + 0.04602535.
    assert predictor.score(np.ones(145_000, np.float32), 16_000) == pytest.approx(1.0938272)
    assert Session.shapes == [(1, 144_160)]
    Session.shapes.clear()
    # 11 s: windows from 0 and 1 s; raw 1 and 2.
    wanted = (1.0938272 + (-0.06766283 * 4 + 1.11546468 * 2 + 0.04602535)) / 2
    assert predictor.score(np.ones(176_000, np.float32), 16_000) == pytest.approx(wanted)
    assert len(Session.shapes) == 2
    Session.shapes.clear()
    # 11.9 s count as 11.
    assert predictor.score(np.ones(190_400, np.float32), 16_000) == pytest.approx(wanted)


def test_scores_stand_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_distillmos(monkeypatch, [])
    measure = {"kind": "spoken_answers", "ask": ["text"]}
    rows = [{"question_text": "a"}, {"question_text": "b"}]
    lab = lab_of(suite_of(questions(tmp_path, rows), measure, mos="distillmos"), tmp_path)
    script(lab, {"a": reply("x", RATE_HZ, peak=0.5), "b": reply("y", 0)})
    result = run_measure(lab, lab.suite.measures[0])
    assert result.figures["mos"].n == 1  # nobody can rate silence
    assert 2.5 < result.figures["mos"].value < 3.5


def test_without_the_package_the_report_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distillmos", None)
    measure = {"kind": "spoken_answers", "ask": ["text"]}
    lab = lab_of(suite_of(questions(tmp_path, [{"question_text": "a"}]), measure, mos="distillmos"), tmp_path)
    script(lab, {"a": reply("x", RATE_HZ)})
    result = run_measure(lab, lab.suite.measures[0])
    assert result.status == "ok"
    assert "mos" not in result.figures
    assert "pip install --no-deps distillmos==0.9.1" in result.notes[0]
