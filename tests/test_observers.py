"""Observers are told what a stage does, and can't break it."""

from pathlib import Path
from typing import Any

import pytest
from helpers import stage, tiny_talker, train, training_rows

from anytalk.model.talker import Talker
from anytalk.plugins import hookimpl


@pytest.fixture
def talker(tmp_path: Path) -> Talker:
    return tiny_talker(tmp_path / "t", "speakers=[anna, ben]")


def test_hooks_see_the_stage(talker: Talker, tmp_path: Path) -> None:
    class Observer:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        @hookimpl
        def stage_started(self, stage: str, report: dict[str, Any]) -> None:
            self.seen.append(("started", stage, report["heads"]["trainable"] > 0, report["backbone"]["trainable"]))

        @hookimpl
        def step_logged(self, stage: str, step: int, metrics: dict[str, float]) -> None:
            self.seen.append(("step", stage, step, "loss" in metrics))

        @hookimpl
        def stage_finished(self, stage: str, folder: Path) -> None:
            self.seen.append(("finished", stage, (folder / "talker.yaml").is_file(), folder.name))

    manager = talker.registry.plugins.manager
    observer = Observer()
    manager.register(observer, name="observer")
    try:
        train(talker, stage(steps=2), training_rows(tmp_path, 2))
    finally:
        manager.unregister(observer)
    assert observer.seen == [
        ("started", "short", True, 0),
        ("step", "short", 1, True),
        ("step", "short", 2, True),
        ("finished", "short", True, "t"),
    ]


def test_a_broken_observer_costs_a_line_and_no_training(talker: Talker, tmp_path: Path) -> None:
    class Broken:
        calls = 0

        @hookimpl
        def step_logged(self, step: int) -> None:
            self.calls += 1
            raise RuntimeError(f"no disk for step {step}")

    plugins, observer = talker.registry.plugins, Broken()
    plugins.manager.register(observer, name="broken-logger")
    try:
        record = train(talker, stage(steps=3), training_rows(tmp_path, 2))
        failure = plugins.failures.pop("broken-logger")
    finally:
        plugins.manager.unregister(observer)
    assert record.steps == 3
    assert observer.calls == 1
    assert failure == "step_logged: RuntimeError: no disk for step 1"
