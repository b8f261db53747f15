"""A long answer of the reference stack from its first column to its last: time of a step, and memory of the process.

    python examples/bench_long_answer.py --threads 2                 # ten minutes of speech, about five of computing
    python examples/bench_long_answer.py --threads 2 --reach 0       # with every column looked back at

Text fills the first three tenths of the columns, as fast as people talk (``anytalk.bench.decoding.TEXT_SHARE``), with
two rows; the rest is speech alone. Weights are random: speed doesn't depend on what they say.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from anytalk.bench.answering import Pace, Timed, answer
from anytalk.bench.decoding import TEXT_SHARE
from anytalk.bench.reference import reference_talker
from anytalk.decode.reach import REACH
from anytalk.decode.ready import make_talker_ready

PART = 500
"""Columns of which a line of the table is the median."""


def print_table(timed: Timed, pace: Pace, resident_mb: list[float]) -> None:
    """A line for every 500 columns, against the first of two rows and the first of one."""
    table = Table("columns", "rows", "step, ms", "times", "backbone, ms", "process, MB", box=None)
    first: dict[int, float] = {}
    for start in range(PART, pace.columns, PART):
        rows = 2 if start <= pace.text_columns else 1
        # The second line of one row on: the very first columns after the text are half of either.
        if start - PART < pace.text_columns < start:
            continue
        laps = timed.watch.laps[start - PART + 1 : start + 1]
        wall = 1e3 * statistics.fmean(lap["wall"] for lap in laps)
        backbone = 1e3 * statistics.median(lap["backbone"] for lap in laps)
        times = wall / first.setdefault(rows, wall)
        cells = (f"{start - PART} to {start}", str(rows), f"{wall:.1f}", f"{times:.2f}", f"{backbone:.1f}")
        table.add_row(*cells, f"{resident_mb[start]:.0f}")
    console = Console()
    console.print(table)
    console.print(
        f"{timed.audio_s:.0f} s of sound in {timed.wall_s:.0f} s, real-time factor {timed.wall_s / timed.audio_s:.2f}"
    )


def main() -> None:
    """Parse, answer, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--reach", type=int, default=REACH, help="Columns of speech looked back at; 0: all.")
    parser.add_argument("--shapes", choices=("reference", "tiny"), default="reference")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    talker = make_talker_ready(reference_talker(arguments.shapes), "int8")
    columns = round(60 * arguments.minutes * talker.codec.frame_rate_hz)
    text_columns = round(TEXT_SHARE * columns)
    pace = Pace(text_columns, columns - text_columns)
    wave = np.random.default_rng(0).normal(0, 0.05, 48_000).astype(np.float32)
    process, resident_mb = psutil.Process(), []
    timed = answer(
        talker,
        wave,
        pace,
        stride_frames=2,
        reach=arguments.reach,
        lapped=lambda: resident_mb.append(process.memory_info().rss / 1e6),
    )
    print_table(timed, pace, resident_mb)


if __name__ == "__main__":
    main()
