"""Two processes on this machine, started by the real launchers, learn what one process learns."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from helpers import NEW_PARTS, moved_parts, snapshot, stage, tiny_talker, training_rows

from anytalk.model.talker import load_talker

pytestmark = pytest.mark.timeout(600)
BIN = Path(sys.executable).parent


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def two(launcher: str) -> list[str]:
    """How a launcher starts two processes of the command line."""
    if launcher == "torchrun":
        return [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "anytalk"]
    if launcher == "accelerate":
        words = "launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
        return [str(BIN / "accelerate"), *words.split(), "--main_process_port", free_port(), "-m", "anytalk"]
    words = "--num_accelerators 2 --no_local_rank --master_port"
    return [str(BIN / "deepspeed"), *words.split(), free_port(), "--module", "anytalk"]


STAGES = [
    stage(
        name="frozen", train=["input_adapter", "special_tokens"], tasks={"A1T2": 1, "T1T2": 1}, steps=3, batch_size=4
    ),
    stage(
        name="all",
        train=[*NEW_PARTS, "backbone"],
        tasks={"A1A2": 1, "A1T1": 1, "T1T2": 1},
        steps=20,
        batch_size=6,
        max_positions=120,
        weight_decay=0.1,
        warmup_steps=2,
        checkpoint_every=5,
    ),
]


def environment() -> dict[str, str]:
    """One thread each, and no accelerator but the CPU."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"}


def zero(folder: Path, number: int) -> Path:
    path = folder / f"zero{number}.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": number}}))
    return path


def command(launcher: list[str], folder: Path, talker: str, *options: str) -> list[str]:
    where = ["train", str(folder / talker), "--data", str(folder / "rows.jsonl"), "--device", "cpu"]
    return [*launcher, *where, "--recipe", str(folder / "recipe.yaml"), *options]


def run(arguments: list[str], timeout_s: float = 200) -> str:
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def losses(folder: Path, name: str = "all") -> list[float]:
    lines = (folder / "history" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def copy(work: Path, name: str) -> Path:
    shutil.copytree(work / "attached", work / name)
    return work / name


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a recipe, and a talker that one process has trained with it."""
    folder = tmp_path_factory.mktemp("engines")
    training_rows(folder, 5)
    recipe = {"name": "two", "stages": [s.model_dump(mode="json") for s in STAGES]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    tiny_talker(folder / "attached")
    copy(folder, "single")
    run(command([sys.executable, "-m", "anytalk"], folder, "single"))
    return folder


def assert_same_talker(work: Path, name: str, tolerance: float = 1e-3) -> None:
    """The loss of every step within 1e-3 of one process's, and nearly its parameters: the frozen ones exactly."""
    for stage_name in ("frozen", "all"):
        assert losses(work / name, stage_name) == pytest.approx(losses(work / "single", stage_name), rel=tolerance)
    found, wanted = load_talker(work / name), load_talker(work / "single")
    assert [r.name for r in found.config.history] == ["frozen", "all"]
    assert "encoder" not in moved_parts(snapshot(load_talker(work / "attached").model), found.model)
    for key, tensor in wanted.model.state_dict().items():
        torch.testing.assert_close(
            found.model.state_dict()[key], tensor, rtol=1e-3, atol=2e-4, msg=lambda m, k=key: k + m
        )
    assert sorted(p.name for p in (work / name).iterdir()) == sorted(p.name for p in (work / "single").iterdir())


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_without_deepspeed(launcher: str, work: Path) -> None:
    copy(work, launcher)
    said = run(command(two(launcher), work, launcher))
    assert_same_talker(work, launcher, tolerance=1e-5)
    assert said.count("Stage 'all'") == 1, "only the main process speaks"


def test_zero_3(work: Path) -> None:
    copy(work, "zero3")
    run(command(two("torchrun"), work, "zero3", "--deepspeed", str(zero(work, 3))))
    assert_same_talker(work, "zero3")


@pytest.mark.slow
def test_zero_1(work: Path) -> None:
    copy(work, "zero1")
    run(command(two("torchrun"), work, "zero1", "--deepspeed", str(zero(work, 1))))
    assert_same_talker(work, "zero1")


def workers_of(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train, of all that a launcher started."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    found = []
    for child in children:
        try:
            if child.environ().get("RANK") is not None and "train" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


def test_zero_2_and_a_killed_rank(work: Path) -> None:
    folder = copy(work, "zero2")
    arguments = command(two("deepspeed"), work, "zero2", "--deepspeed", str(zero(work, 2)))
    launcher = subprocess.Popen(
        arguments,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not (folder / "history" / "all.checkpoint").is_dir():
            assert launcher.poll() is None, launcher.stdout and launcher.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers_of(launcher)[1].send_signal(signal.SIGKILL)
        said, _ = launcher.communicate(timeout=120)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    assert launcher.returncode != 0
    assert "another process of this job has ended" in said or "exits with return code" in said
    assert not (folder / "history" / "all.jsonl").exists()
    resumed = run(arguments)
    assert "resuming stage 'all' at step" in resumed
    assert_same_talker(work, "zero2")


def test_deepspeed_without_a_launcher(work: Path) -> None:
    copy(work, "alone")
    run(command([sys.executable, "-m", "anytalk"], work, "alone", "--deepspeed", str(zero(work, 2))))
    assert_same_talker(work, "alone")
