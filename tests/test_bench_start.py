"""The bench of starting: fresh processes, and a clock that counts each second once."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import tiny_talker
from typer.testing import CliRunner

from anytalk.bench import starting
from anytalk.bench.laps import Laps
from anytalk.cli.app import build_app
from anytalk.errors import ConfigError


def test_a_second_inside_another_counts_once(tmp_path: Path) -> None:
    laps = Laps(tmp_path / "laps.json", time.perf_counter())

    class TextDelta:
        pass

    load = laps.importing(lambda name, _: time.sleep(0.02))
    registry = SimpleNamespace()

    def build(_: object, kind: str) -> str:
        load("torch", None)
        time.sleep(0.03)
        return kind

    def ask(question: str) -> object:
        load("late", None)
        time.sleep(0.04)
        yield from (TextDelta(), TextDelta())

    assert laps.building(build)(registry, "backbone") == "backbone"
    assert laps.building(build)(registry, "heads") == "heads"
    list(laps.asking(ask)("Hello?"))
    told = json.loads((tmp_path / "laps.json").read_text())
    seconds = told["segments"]
    assert set(seconds) <= set(starting.SEGMENTS)
    assert seconds["imports"] >= 0.06
    for name, shortest in (("backbone", 0.03), ("other parts", 0.03), ("first question", 0.04)):
        assert shortest <= seconds[name] < shortest + 0.02 + 0.5 * told["total"]
    assert sum(seconds.values()) == pytest.approx(told["total"])


def test_the_import_of_sessions_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laps = Laps(tmp_path / "laps.json", time.perf_counter())
    module = SimpleNamespace(Session=type("Session", (), {"ask": lambda self: iter(())}))
    monkeypatch.setitem(sys.modules, "anytalk.decode.session", module)
    before = module.Session.ask
    laps.importing(lambda name, _: module)("anytalk.decode.session", None)
    assert module.Session.ask is not before


def test_figures_of_a_tiny_talker(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t")
    app = build_app(only="bench")
    options = ["--repeats", "1", "--json", str(tmp_path / "f.json"), "--threads", "1"]
    done = CliRunner().invoke(app, ["bench", "start", str(tmp_path / "t"), *options], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    assert "to the first text" in done.output
    figures = json.loads((tmp_path / "f.json").read_text())
    assert set(figures["commands"]) == {"--help", "plugins", "info", "doctor"}
    for times in figures["answers"]["typed"].values():
        assert sum(times[name] for name in starting.SEGMENTS) == pytest.approx(times["total"], rel=0.01)
        assert min(times["imports"], times["first question"], times["backbone"]) > 0
        assert times["ears"] == 0, "a typed question needs none"


def test_what_cannot_be_measured_is_a_sentence(tmp_path: Path) -> None:
    app = build_app(only="bench")
    missing = CliRunner().invoke(app, ["bench", "start", "x", "--question", "no.wav"])
    assert "'no.wav' doesn't exist" in missing.output
    with pytest.raises(ConfigError, match="the command that was measured failed"):
        starting.measure_commands(tmp_path / "nothing", 1, lambda _: None)
