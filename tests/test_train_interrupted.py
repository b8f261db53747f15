"""What comes over a running stage from outside: kills, signals, full disks, worker processes, other data."""

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import NEW_PARTS, stage, tiny_talker, train, training_rows, write_lines
from training import assert_same_run, interrupted_after, log_of

from anytalk.data.batches import Steps
from anytalk.data.mixing import Mixture
from anytalk.data.opening import TrainingData
from anytalk.errors import AnytalkError, ConfigError, DataError, TalkerError
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import Row
from anytalk.train.config import Recipe, StageConfig
from anytalk.train.loop import TrainingWatcher, train_recipe, train_stage

# A forked process can't use its parent's threads, and sums on several threads round otherwise.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

STAGE = stage(
    train=[*NEW_PARTS, "backbone"],
    tasks={"A1A2": 1, "A1T1": 2},
    steps=14,
    checkpoint_every=1,
    weight_decay=0.1,
    batch_size=4,
    max_positions=120,
)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return training_rows(tmp_path, 5)


@pytest.fixture
def straight(tmp_path: Path, rows: list[Row]) -> Talker:
    talker = tiny_talker(tmp_path / "straight")
    train(talker, STAGE, rows)
    return talker


DONE, FAILED = -1, -2


def in_a_process(folder: Path, rows: list[Row], pipe: Connection, limit_at: int, how: dict[str, Any]) -> None:
    """Train, tell each step; from step `limit_at` on no file may grow beyond 20 kB."""

    def step(_: StageConfig, number: int, metrics: dict[str, float]) -> None:
        pipe.send((number, ""))
        if number == limit_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    try:
        train(load_talker(folder), STAGE, rows, TrainingWatcher(step=step), **how)
    except AnytalkError as error:
        pipe.send((FAILED, error.message))
    else:
        pipe.send((DONE, ""))


def started(folder: Path, rows: list[Row], limit_at: int = 0, **how: Any) -> tuple[Any, Connection]:
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=in_a_process, args=(folder, rows, theirs, limit_at, how))
    process.start()
    theirs.close()
    return process, ours


def told(pipe: Connection) -> tuple[int, str]:
    assert pipe.poll(60), "the process says nothing"
    found: tuple[int, str] = pipe.recv()
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_kill_9_at_any_moment_costs_at_most_a_step(
    workers: int, straight: Talker, rows: list[Row], tmp_path: Path
) -> None:
    folder, chance, kills = tmp_path / "t", random.Random(workers), 0
    tiny_talker(folder)
    while True:
        process, pipe = started(folder, rows, workers=workers)
        number = 0
        for _ in range(chance.randrange(2, 5)):  # two steps are told: the first one's checkpoint is whole
            number, _ = told(pipe)
            if number == DONE:
                break
        if number == DONE:
            break
        time.sleep(chance.uniform(0, 0.03))  # somewhere in a step, or in a save
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        assert load_talker(folder).config.history == []
    process.join()
    assert process.exitcode == 0
    assert kills >= 3
    assert_same_run(folder, straight)


def test_a_full_disk_leaves_the_last_checkpoint(straight: Talker, rows: list[Row], tmp_path: Path) -> None:
    folder = tmp_path / "t"
    tiny_talker(folder)
    process, pipe = started(folder, rows, limit_at=5)
    said = [told(pipe)]
    while said[-1][0] > 0:
        said.append(told(pipe))
    process.join()
    assert [number for number, _ in said] == [1, 2, 3, 4, 5, FAILED]
    assert "short.checkpoint' can't be written" in said[-1][1]
    assert sorted(p.name for p in (folder / "history").iterdir()) == ["short.checkpoint", "tensorboard"]
    resumed: list[int] = []
    train(load_talker(folder), STAGE, rows, TrainingWatcher(resumed=lambda stage, step: resumed.append(step)))
    assert resumed == [4]
    assert_same_run(folder, straight)


def test_sigterm_saves_and_stops(rows: list[Row], tmp_path: Path) -> None:
    """The whole program, as a cluster would stop it."""
    folder = tmp_path / "t"
    tiny_talker(folder)
    endless = STAGE.model_copy(update={"steps": 100_000, "checkpoint_every": 5})
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump({"name": "mine", "stages": [endless.model_dump(mode="json")]}))
    command = [sys.executable, "-m", "anytalk", "train", str(folder), "--data", str(tmp_path / "rows.jsonl"),
               "--recipe", str(recipe), "--device", "cpu", "--threads", "1"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    state = folder / "history" / "short.checkpoint" / "state.json"
    until = time.monotonic() + 120
    while not state.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted; finished steps are saved: resume with the same command" in " ".join(errors.split())
    saved, resumed = json.loads(state.read_text()), []
    assert saved["step"] == len(saved["log"]) >= 5
    data = TrainingData(str(tmp_path / "rows.jsonl"))
    with pytest.raises(KeyboardInterrupt):
        train_stage(load_talker(folder), endless, data, watcher=interrupted_after(1, resumed))
    assert resumed == [saved["step"]]


def test_bf16_goes_on_exactly(rows: list[Row], tmp_path: Path) -> None:
    straight = tiny_talker(tmp_path / "straight")
    train(straight, STAGE, rows, precision="bf16")
    tiny_talker(tmp_path / "t")
    for stop in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            train(load_talker(tmp_path / "t"), STAGE, rows, precision="bf16", watcher=interrupted_after(stop))
    train(load_talker(tmp_path / "t"), STAGE, rows, precision="bf16")
    assert_same_run(tmp_path / "t", straight)
    full = tiny_talker(tmp_path / "full")
    train(full, STAGE, rows)
    assert log_of(tmp_path / "full") != log_of(tmp_path / "t"), "bf16 was really used"


def test_other_data_is_refused(rows: list[Row], tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t")
    with pytest.raises(KeyboardInterrupt):
        train(load_talker(tmp_path / "t"), STAGE, rows, watcher=interrupted_after(2))
    with pytest.raises(TalkerError, match=r"other data \(rows of rows, rows/A1A2, rows/A1T1\)") as caught:
        train(load_talker(tmp_path / "t"), STAGE, rows[:4])
    assert "--restart" in caught.value.hint


def test_what_a_worker_finds_wrong_is_the_same_sentence(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out = Steps.__getitem__

    def broken(self: Steps, step: int) -> Any:
        if step == 3:
            raise DataError("rows.jsonl:4: its sound is needed", "prepare again")
        return lay_out(self, step)

    monkeypatch.setattr(Steps, "__getitem__", broken)
    for workers in (0, 2):
        with pytest.raises(DataError) as caught:
            train(tiny_talker(tmp_path / f"t{workers}"), STAGE, rows, workers=workers)
        assert (caught.value.message, caught.value.hint) == ("rows.jsonl:4: its sound is needed", "prepare again")


def two_sources(folder: Path) -> str:
    sources = []
    for name, count, settings in [("much", 3, {"weight": 3.0}), ("little", 5, {"tasks": ["A1A2"]})]:
        (folder / name).mkdir()
        training_rows(folder / name, count)
        sources.append({"kind": "jsonl", "name": name, "path": f"{name}/rows.jsonl", **settings})
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"sources": sources}))
    return str(path)


def test_sources_are_drawn_by_weight_and_resumed_exactly(tmp_path: Path) -> None:
    spec, straight = two_sources(tmp_path), tiny_talker(tmp_path / "straight")
    feeds = TrainingData(spec).feeds(straight, [TASKS[name] for name in STAGE.tasks])
    assert [(feed.name, feed.weight) for feed in feeds] == [("much", 3.0), ("little", 1.0)]
    draws = [draw for step in range(30) for draw in Mixture(feeds, STAGE.tasks, 4, 0).draws(step)]
    shares = Counter((list(STAGE.tasks)[draw.task], feeds[draw.feed].name) for draw in draws)
    assert shares.keys() == {("A1A2", "much"), ("A1A2", "little"), ("A1T1", "much")}
    # A third of 120 rows is A1A2, of which three quarters come from `much`.
    for pair, count in [(("A1A2", "much"), 30), (("A1A2", "little"), 10), (("A1T1", "much"), 80)]:
        assert abs(shares[pair] - count) <= 8
    train_stage(straight, STAGE, TrainingData(spec))
    tiny_talker(tmp_path / "t")
    with pytest.raises(KeyboardInterrupt):
        train_stage(load_talker(tmp_path / "t"), STAGE, TrainingData(spec), watcher=interrupted_after(6))
    train_stage(load_talker(tmp_path / "t"), STAGE, TrainingData(spec))
    assert_same_run(tmp_path / "t", straight)


def test_a_task_that_no_source_serves_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    write_lines(tmp_path / "none" / "rows.jsonl", [{"question_text": "a?", "answer_text": "b"}])
    source = {"kind": "jsonl", "path": "none/rows.jsonl"}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"sources": [source]}))
    with pytest.raises(ConfigError, match="no row of the data serves task A1A2"):
        train_stage(tiny_talker(tmp_path / "t"), STAGE, TrainingData(str(tmp_path / "data.yaml")))


def test_a_trained_encoder_is_heard_by_the_stages_behind_it(rows: list[Row], tmp_path: Path) -> None:
    """In one job from the sound that was kept, in a later one from features made anew: the same, but for rounding."""
    stages = [
        stage(name="ears", train=["encoder"], tasks={"A1T1": 1}, steps=2, learning_rate=1e-2),
        stage(name="adapter", train=["input_adapter"], tasks={"A1T1": 1}, steps=3),
    ]
    logs: list[list[float]] = []
    for name in ("one", "two"):
        tiny_talker(tmp_path / name)
        seen: list[float] = []
        watcher = TrainingWatcher(step=lambda stage, step, metrics, seen=seen: seen.append(metrics["loss"]))
        for jobs in [stages] if name == "one" else [stages[:1], stages]:
            talker = load_talker(tmp_path / name)
            train_recipe(talker, Recipe(stages=jobs), TrainingData(rows=rows), watcher=watcher)
        logs.append(seen)
    assert len(logs[0]) == 5
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    deaf = tiny_talker(tmp_path / "deaf")
    losses: list[float] = []
    watcher = TrainingWatcher(step=lambda stage, step, metrics: losses.append(metrics["loss"]))
    train(deaf, stages[1], rows, watcher)
    assert losses[0] != pytest.approx(logs[0][2], rel=1e-5), "what the ears learnt is heard"
