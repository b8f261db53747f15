"""Collect the benchmarks in one group: ``anytalk bench``."""

from __future__ import annotations

import typer

from anytalk.cli import bench_decode, bench_peers, bench_precision, bench_start, bench_train

group = typer.Typer(no_args_is_help=True)
group.command("decode", help="Time answers part by part, and optionally the plain loop for comparison.")(
    bench_decode.command
)
group.command("peers", help="Compare milliseconds per token with llama.cpp on the same GGUF file.")(bench_peers.command)
group.command("precision", help="Compare the logits of another arithmetic with the exact ones.")(
    bench_precision.command
)
group.command("start", help="Time fresh processes from the command to the first text of the answer.")(
    bench_start.command
)
group.command("train", help="Time the training loop against the bare backbone.")(bench_train.command)
