"""Train each input adapter on each encoder for the same processor time and on the same clips, and print a table.

    python examples/ears/compare.py OUT SET [SET ...] --minutes 4

SET is a set as examples/ears/train.sh takes it. compare.yaml names adapters, encoders and their stage. Each clip is
encoded once per encoder, as `anytalk prepare` does it, and all adapters share that. What is finished is not run again,
so the command may be stopped, or typed once for each `--adapters` and `--encoders`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # weights that lie here are enough, and nothing waits for a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import soundfile
import torch
import yaml
from plain_manifests import AUGMENT, Rows, parted, spoken_rows, write_rows, write_yaml

from anytalk.cli.app import build_app
from anytalk.data.batches import LaidRow, collate
from anytalk.data.opening import TrainingData
from anytalk.evaluate.config import Suite
from anytalk.evaluate.run import run_suite
from anytalk.evaluate.stats import Bootstrap, Figure
from anytalk.grid.tasks import A1T1
from anytalk.model.talker import Talker, load_talker
from anytalk.train.config import Recipe, StageConfig
from anytalk.train.loop import RunSettings, TrainingWatcher, train_recipe
from anytalk.train.losses import LossModule, choose_losses

PROBE_STEPS, PROBE_S = 3, 6.0
"""Least steps, and processor time, that tell how long a step takes; the first step counts no time."""

LOOKS = 4
"""Measurements of the held-out loss during a run."""

SETS = ("clips", "held-out", "strangers")
"""What is prepared: to learn from, to measure with, and the latter with each transcript given to another clip."""


def main() -> None:
    """Prepare, train and measure what isn't finished, then print the table of everything that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Folder for everything that is made.")
    parser.add_argument("sets", type=Path, nargs="*", help="Sets of LibriSpeech, or folders with a manifest.jsonl.")
    parser.add_argument("--choices", type=Path, default=Path(__file__).with_name("compare.yaml"), help="Another file.")
    parser.add_argument("--adapters", nargs="*", help="Only these of the file; none: only prepare.")
    parser.add_argument("--encoders", nargs="*", help="Only these of the file.")
    parser.add_argument("--minutes", type=float, default=4.0, help="Processor time of each training.")
    parser.add_argument("--hours", type=float, default=2.0, help="Speech to learn from.")
    parser.add_argument("--longest-s", type=float, default=6.0, help="Longer clips are left out.")
    parser.add_argument("--held-out", type=int, default=64, help="Clips of other speakers for the loss.")
    parser.add_argument("--heard", type=int, default=24, help="The first of these, which are transcribed.")
    parser.add_argument(
        "--precision", default="no", choices=["no", "bf16"], help="Arithmetic of encoders and training."
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    choices = yaml.safe_load(arguments.choices.read_text(encoding="utf-8"))
    lab = Lab(arguments, choices)
    if not (arguments.out / "data" / "clips.jsonl").is_file():
        lab.write_data(arguments.sets)
    adapters = list(choices["adapters"]) if arguments.adapters is None else arguments.adapters
    for encoder in arguments.encoders or choices["encoders"]:
        lab.prepare(encoder)
        for adapter in adapters:
            if not lab.result(encoder, adapter).is_file():
                lab.run(encoder, adapter)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in lab.finished()]
    text = table(results)
    (arguments.out / "table.md").write_text(text, encoding="utf-8")
    print("\n" + text)


class EnoughError(Exception):
    """Ends a training that was only to tell how long a step takes."""


@dataclass
class Clock:
    """Takes the processor time of each step; a step after which held-out rows are measured counts as a usual one.

    Attributes:
        is_probe: Whether to raise :class:`EnoughError` as soon as the time of a step is known.
        marks: Processor seconds of the process at the end of each step.
        looks: The steps after which held-out rows were measured, and their loss.
    """

    is_probe: bool = False
    marks: list[float] = field(default_factory=list)
    looks: dict[int, float] = field(default_factory=dict)

    def watcher(self) -> TrainingWatcher:
        """Return a watcher for a stage that logs each step."""
        return TrainingWatcher(plan=lambda *_: self._mark(), step=self._step)

    def _mark(self) -> None:
        self.marks.append(time.process_time())

    def _step(self, stage: StageConfig, step: int, metrics: dict[str, float]) -> None:
        self._mark()
        if "held_out.loss" in metrics:
            self.looks[step] = metrics["held_out.loss"]
        if self.is_probe and step >= PROBE_STEPS and self.marks[-1] - self.marks[1] > PROBE_S:
            raise EnoughError

    def per_step_s(self) -> list[float]:
        """Return the processor seconds of each step that nothing else happened in; the first one warms up."""
        spent = [b - a for a, b in zip(self.marks[:-1], self.marks[1:], strict=True)]
        return [s for step, s in enumerate(spent, start=1) if step > 1 and step not in self.looks]


class Lab:
    """Prepares, trains and measures in one folder."""

    def __init__(self, arguments: argparse.Namespace, choices: dict[str, Any]) -> None:
        self.out: Path = arguments.out
        self._arguments, self._choices = arguments, choices

    # ---- data

    def write_data(self, sets: Sequence[Path]) -> None:
        """Draw clips to learn from and clips of other speakers, and write their manifests."""
        folder, sizes = self.out / "data", self._arguments
        folder.mkdir(parents=True, exist_ok=True)
        learnt: Rows = []
        others: Rows = []
        for place in sets:
            mine, theirs = parted(spoken_rows(place), 20)
            learnt, others = learnt + mine, others + theirs
        held_out = list(short_clips(others, sizes.longest_s, sizes.held_out))
        rows = list(short_clips(learnt, sizes.longest_s, hours=sizes.hours))
        # The same sounds and texts, but no text is that of its sound.
        texts = [row["text"] for row in held_out]
        strangers = [{**row, "text": text} for row, text in zip(held_out, texts[1:] + texts[:1], strict=True)]
        for name, found in zip(SETS, (rows, held_out, strangers), strict=True):
            write_rows(folder / f"{name}.jsonl", found)
            source = {"kind": "jsonl", "name": name, "path": f"{name}.jsonl", "tasks": ["A1T1"]}
            write_yaml(folder / f"{name}.yaml", {"sources": [source], "augment": AUGMENT if name == "clips" else []})
        print(f"{len(rows)} clips to learn from, {len(held_out)} of other speakers")

    def prepare(self, encoder: str) -> None:
        """Encode all clips with one encoder."""
        talker = self.out / encoder / "encodes"
        if not (talker / "talker.yaml").is_file():
            self._attach(encoder, next(iter(self._choices["adapters"])), talker)
        for name in SETS:
            where = ("-o", self.shards(encoder, name), "--talker", talker, "--half")
            bf16 = ("--bf16",) if self._arguments.precision == "bf16" else ()
            anytalk("prepare", self.out / "data" / f"{name}.yaml", *where, *bf16)

    def shards(self, encoder: str, name: str) -> Path:
        """Return the folder of the prepared clips of one of :data:`SETS`."""
        return self.out / encoder / "shards" / name

    # ---- runs

    def result(self, encoder: str, adapter: str) -> Path:
        """Return the file of a finished run."""
        return self.out / encoder / f"{adapter}.json"

    def finished(self) -> list[Path]:
        """Return the files of all finished runs, in the order of the choices."""
        names = [(encoder, adapter) for encoder in self._choices["encoders"] for adapter in self._choices["adapters"]]
        return [path for path in (self.result(*name) for name in names) if path.is_file()]

    def run(self, encoder: str, adapter: str) -> None:
        """Train one adapter for the budget, measure it, and write its file."""
        folder, budget_s = self.out / encoder / adapter, 60 * self._arguments.minutes
        print(f"\n== {encoder}, {adapter}", flush=True)
        self._attach(encoder, adapter, folder)
        # 1. Find out how many steps the budget allows.
        probe = folder.with_name(f"{adapter}-probe")
        shutil.copytree(folder, probe, dirs_exist_ok=True)
        clock, _ = self._train(encoder, adapter, probe, 1000, is_probe=True)
        shutil.rmtree(probe)
        probed = clock.per_step_s()
        steps = max(LOOKS, round(budget_s / statistics.mean(probed)))
        # 2. Train.
        clock, stage = self._train(encoder, adapter, folder, steps)
        # With few steps, held-out rows are measured after each, and none of them tells what a step takes.
        each = clock.per_step_s() or probed
        # 3. Measure.
        talker = load_talker(folder)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._arguments.precision == "bf16"):
            losses = {name: held_out_loss(talker, stage, self.shards(encoder, name)) for name in SETS[1:]}
        heard = self._heard(talker, folder)
        found = {
            "encoder": encoder,
            "adapter": adapter,
            "parameters": sum(p.numel() for p in talker.model.input_adapter.parameters()),
            "steps": steps,
            "rows": steps * stage.batch_size,
            "processor_s": sum(each) / len(each) * steps,
            "curve": [[step * stage.batch_size, loss] for step, loss in sorted(clock.looks.items())],
            "loss": as_list(losses["held-out"]),
            "loss_of_strangers": as_list(losses["strangers"]),
            "wer": as_list(heard),
        }
        self.result(encoder, adapter).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found), flush=True)

    def _attach(self, encoder: str, adapter: str, folder: Path) -> None:
        chosen = {"name": adapter, "options": self._choices["adapters"][adapter]["options"]}
        words = (self._choices["model"], "-o", folder, *self._choices["encoders"][encoder])
        settings = ("--codec", self._choices["codec"], "--set", f"input_adapter={json.dumps(chosen)}")
        anytalk("attach", *words, *settings, "--overwrite")

    def _train(
        self, encoder: str, adapter: str, folder: Path, steps: int, *, is_probe: bool = False
    ) -> tuple[Clock, StageConfig]:
        """Train so many steps; the same as `anytalk train` with the recipe that is written beside the talker."""
        own = {**self._choices["stage"], **self._choices["adapters"][adapter]["stage"]}
        stage = StageConfig.model_validate({**own, "steps": steps, "warmup_steps": steps // 10, "log_every": 1})
        recipe = Recipe(name=f"{encoder}-{adapter}", stages=[stage])
        write_yaml(folder.with_suffix(".yaml"), recipe.model_dump(mode="json"))
        settings = RunSettings(
            precision=self._arguments.precision,
            held_out=None if is_probe else TrainingData(str(self.shards(encoder, "held-out"))),
            held_out_every=max(1, -(-steps // LOOKS)),
        )
        clock, clips = Clock(is_probe), TrainingData(str(self.shards(encoder, "clips")))
        with contextlib.suppress(EnoughError):
            train_recipe(load_talker(folder), recipe, clips, settings, clock.watcher())
        return clock, stage

    def _heard(self, talker: Talker, folder: Path) -> Figure:
        """Return the word error rate on held-out clips, as `anytalk eval` measures it."""
        rows = {"kind": "jsonl", "path": str((self.out / "data" / "held-out.jsonl").absolute())}
        measure = {"kind": "asr", "name": "heard", "source": rows, "limit": self._arguments.heard}
        # A transcript of a short clip has at most some thirty tokens; one that goes on in circles is cut off.
        suite = Suite.model_validate({"name": folder.name, "max_columns": 40, "measures": [measure]})
        report = run_suite(talker, suite, folder.with_name(f"{folder.name}-report"))
        return report.results[0].figures["wer"]


def short_clips(
    rows: Rows, longest_s: float, number: int | None = None, hours: float | None = None
) -> Iterator[dict[str, str]]:
    """Yield clips in an order drawn by chance (seed 0), without long ones, until there are enough."""
    shuffled, seconds, count = random.Random(0).sample(rows, len(rows)), 0.0, 0
    for row in shuffled:
        if count == number or (hours is not None and seconds >= 3600 * hours):
            return
        length_s = soundfile.info(row["audio"]).duration
        if length_s <= longest_s:
            yield row
            seconds, count = seconds + length_s, count + 1


@torch.no_grad()
def held_out_loss(talker: Talker, stage: StageConfig, data: Path) -> Figure:
    """Measure what a stage learns by on each prepared row, in nats per token of the transcript."""
    torch.manual_seed(0)  # `ctc` compares with tokens drawn by chance
    module = LossModule(talker.model.eval(), choose_losses(talker, stage), speaks=False)
    nats: list[float] = []
    tokens: list[int] = []
    for feed in TrainingData(str(data)).feeds(talker, [A1T1]):
        for index in map(int, feed.indices(A1T1.name)):
            row = LaidRow(talker, feed.outline(index), A1T1, learn_pads=False)
            batch = collate(talker.model.layout, [(feed.example(index), A1T1, row.grid)], talker.config.speakers)
            batch = replace(batch, prepared={loss.name: loss.prepare([row]) for loss in module.losses})
            nats.append(float(module(batch, module.factors({}))[1].sum()))
            tokens.append(sum(count for loss in module.losses for count in loss.counts(row)))
    return Bootstrap().ratio(nats, tokens)


def as_list(figure: Figure) -> list[float | None]:
    """Return a figure and its interval."""
    return [figure.value, figure.low, figure.high]


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of finished runs, with 95 % intervals over the clips."""

    def told(figure: Sequence[float], times: float, places: int) -> str:
        value, low, high = (f"{times * part:.{places}f}" for part in figure)
        return f"{value} ({low} to {high})"

    lines = [
        "| encoder | adapter | parameters | steps | rows seen | processor s | held-out loss per token, on the way "
        "| in the end | with another clip's text | words wrong, % |",
        "|" + "---|" * 10,
    ]
    for run in results:
        curve = ", ".join(f"{loss:.2f}" for _, loss in run["curve"])
        cells = [
            run["encoder"],
            f"`{run['adapter']}`",
            f"{run['parameters'] / 1e6:.1f} M",
            run["steps"],
            run["rows"],
            f"{run['processor_s']:.0f}",
            curve,
            told(run["loss"], 1, 2),
            told(run["loss_of_strangers"], 1, 2),
            told(run["wer"], 100, 1),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def anytalk(*words: object) -> None:
    """Print a command and run it in this process; ends the program when it fails."""
    typed = [str(word) for word in words]
    print(f"\n$ {shlex.join(['anytalk', *typed])}", flush=True)
    if status := build_app(only=typed[0])(typed, standalone_mode=False):
        sys.exit(status)


if __name__ == "__main__":
    main()
