"""How fast `anytalk prepare` turns many short rows into shards, and whether it slows down or grows on the way.

Encoder and codec are tiny, so what is measured is the framework: reading, checking, writing. Rows come from a manifest
of files and from parquet with the sound inside, as Hugging Face `datasets` keeps it. Each source is prepared twice: in
one go, watched, and killed (SIGKILL) at a third and at two thirds and gone on with; both must leave the same bytes.

    python examples/bench_prepare.py --rows 50000 --workers 2
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from rich.console import Console
from rich.table import Table

from anytalk.data.ledger import read_ledger
from anytalk.model.attach import attach

SAMPLE_S = 0.5
ROWS_PER_FILE = 5000
ROWS_PER_GROUP = 100
MB = 1e6
TINY = ["backbone.options={}", "encoder={name: tiny}", "codec={name: tiny}", "output_adapter.options.num_blocks=1"]


def make_clips(count: int, shortest_s: float = 0.3, longest_s: float = 1.0) -> list[tuple[bytes, bytes]]:
    """Questions (16 kHz) and answers (8 kHz) as wav files: tones in noise, the same ones every time."""
    random = np.random.default_rng(0)

    def clip(rate_hz: int) -> bytes:
        length = int(rate_hz * random.uniform(shortest_s, longest_s))
        tone = 0.3 * np.sin(2 * np.pi * random.uniform(200, 3000) * np.arange(length) / rate_hz)
        file = io.BytesIO()
        soundfile.write(file, tone + 0.01 * random.standard_normal(length), rate_hz, format="WAV", subtype="PCM_16")
        return file.getvalue()

    return [(clip(16_000), clip(8_000)) for _ in range(count)]


def texts(number: int) -> dict[str, str]:
    """What is said in a row."""
    return {"question_text": f"question {number}?", "answer_text": f"answer {number}"}


def write_manifest(folder: Path, rows: int, clips: Sequence[tuple[bytes, bytes]]) -> Path:
    """A manifest whose sounds are files; one row in 500 names a file that isn't there."""
    folder.mkdir(parents=True)
    for number, sounds in enumerate(clips):
        for letter, data in zip("qa", sounds, strict=True):
            (folder / f"{letter}{number}.wav").write_bytes(data)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows):
            clip = number % len(clips) if number % 500 != 250 else "-missing"
            sounds = {"question_audio": f"q{clip}.wav", "answer_audio": f"a{clip}.wav"}
            file.write(json.dumps({**texts(number), **sounds}) + "\n")
    return folder / "rows.jsonl"


def write_parquet(folder: Path, rows: int, clips: Sequence[tuple[bytes, bytes]]) -> Path:
    """A folder of parquet files with the sound inside, as `datasets` writes it; one row in 500 holds no sound file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Audio, Features, Value

    folder.mkdir(parents=True)
    text = Value("string")
    columns = {"question_text": text, "question_audio": Audio(), "answer_text": text, "answer_audio": Audio()}
    schema = Features(columns).arrow_schema
    for first in range(0, rows, ROWS_PER_FILE):
        with pq.ParquetWriter(folder / f"train-{first // ROWS_PER_FILE:05d}.parquet", schema) as writer:
            last = min(first + ROWS_PER_FILE, rows)
            for group in range(first, last, ROWS_PER_GROUP):
                records = [_record(n, clips) for n in range(group, min(group + ROWS_PER_GROUP, last))]
                writer.write_table(pa.Table.from_pylist(records, schema=schema))
    return folder


def _record(number: int, clips: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    question, answer = clips[number % len(clips)] if number % 500 != 250 else (b"broken", b"broken")
    return {
        **texts(number),
        "question_audio": {"bytes": question, "path": f"q{number}.wav"},
        "answer_audio": {"bytes": answer, "path": f"a{number}.wav"},
    }


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment."""

    time_s: float
    rows: int  # in whole shards
    parent: int  # resident bytes
    worker: int  # resident bytes of the largest worker
    cpu_s: float  # processor time of all of them so far


class Run(list[Sample]):
    """One run, from its first shard on."""

    def part(self, low: float, high: float) -> list[Sample]:
        """The samples between two shares of the rows."""
        total = self[-1].rows
        return [sample for sample in self if low * total <= sample.rows <= high * total]

    def figures(self, low: float, high: float) -> dict[str, float]:
        """Rows a second, processor time of a row, and the most memory that was seen between two shares of the rows."""
        part = self.part(low, high)
        rows = part[-1].rows - part[0].rows
        return {
            "rows/s": rows / max(part[-1].time_s - part[0].time_s, 1e-9),
            "cpu ms/row": 1000 * (part[-1].cpu_s - part[0].cpu_s) / max(rows, 1),
            "parent MB": max(sample.parent for sample in part) / MB,
            "worker MB": max(sample.worker for sample in part) / MB,
        }


class Prepare:
    """`anytalk prepare` as a user starts it."""

    def __init__(self, data: Path, talker: Path, out: Path, workers: int, rows_per_shard: int) -> None:
        self.out, self.workers = out, workers
        command = [sys.executable, "-m", "anytalk", "prepare", str(data), "-o", str(out), "--talker", str(talker)]
        command += ["--workers", str(workers), "--rows-per-shard", str(rows_per_shard), "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def watch(self, stop_at: int | None = None) -> Run:
        """Follow it to its end, or kill it once so many rows stand in the ledger."""
        run = Run()
        for rows in self._rows():
            sample = self._sample(rows)
            if rows and sample is not None:
                run.append(sample)
            if stop_at is not None and rows >= stop_at:
                self.process.send_signal(signal.SIGKILL)
                self.process.communicate()
                return run
        said = self.process.communicate()[1]
        if self.process.returncode:
            raise SystemExit(f"prepare failed:\n{said}")
        return run

    def _rows(self) -> Iterator[int]:
        """Rows in whole shards, every now and then until the process has ended."""
        ledger, rows, rest = self.out / "ledger.jsonl", 0, ""
        place = 0
        while True:
            ended = self.process.poll() is not None
            if ledger.is_file():
                with ledger.open(encoding="utf-8") as file:
                    file.seek(place)
                    *lines, rest = file.read().split("\n")
                    place = file.tell() - len(rest.encode())
                rows += sum(entry["rows"] for entry in map(json.loads, lines) if "complete" not in entry)
            yield rows
            if ended:
                return
            time.sleep(SAMPLE_S)

    def _sample(self, rows: int) -> Sample | None:
        try:
            parent = psutil.Process(self.process.pid)
            workers = [child for child in parent.children() if "spawn_main" in str(child.cmdline())]
            if len(workers) < self.workers:
                return None
            sizes = [child.memory_info().rss for child in workers]
            times = [process.cpu_times() for process in (parent, *workers)]
            cpu_s = sum(spent.user + spent.system for spent in times)
            return Sample(time.perf_counter(), rows, parent.memory_info().rss, max(sizes, default=0), cpu_s)
        except psutil.Error:  # one of them has just ended
            return None


def same_folder(first: Path, second: Path) -> bool:
    """Whether two prepared folders hold the same bytes; of the ledger the time that each shard took left out."""
    found = []
    for folder in (first, second):
        files = {p.relative_to(folder): p.read_bytes() for p in folder.glob("*/*.parquet")}
        ledger = read_ledger(folder)
        shards = {key: record.model_copy(update={"seconds": None}) for key, record in ledger.shards.items()}
        found.append((files, shards, ledger.complete, (folder / "rejected.jsonl").read_bytes()))
    return found[0] == found[1]


def measure(work: Path, name: str, source: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare a source in one go and killed twice."""
    data = work / f"{name}.yaml"
    data.write_text(json.dumps({"sources": [{"name": name, **source}]}), encoding="utf-8")
    size = max(8, min(512, arguments.rows // 40))
    straight, killed = work / f"{name}-straight", work / f"{name}-killed"

    def start(out: Path) -> Prepare:
        return Prepare(data, work / "talker", out, arguments.workers, size)

    run = start(straight).watch()
    for share in (1 / 3, 2 / 3):
        start(killed).watch(stop_at=int(share * arguments.rows))
    start(killed).watch()
    parts = {"all": (0.0, 1.0), "first tenth": (0.0, 0.1), "last tenth": (0.9, 1.0)}
    found = {part: {key: round(value, 1) for key, value in run.figures(*of).items()} for part, of in parts.items()}
    return {"source": name, "rows": run[-1].rows, "parts": found, "equal": same_folder(straight, killed)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="Rows of each source.")
    parser.add_argument("--clips", type=int, default=2000, help="Different clips; rows take them by turns.")
    parser.add_argument("--workers", type=int, default=2, help="Workers of prepare.")
    parser.add_argument("--sources", nargs="+", default=["files", "parquet"], choices=["files", "parquet"])
    parser.add_argument("--work", type=Path, help="Folder for data and shards (about 60 kB a row); default: temporary.")
    parser.add_argument("--json", type=Path, help="Also write the figures here.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        work = Path(temporary)
        attach("tiny", work / "talker", backbone="tiny", assignments=TINY)
        clips = make_clips(min(arguments.clips, arguments.rows))
        figures = []
        for name in arguments.sources:
            if name == "files":
                source = {"kind": "jsonl", "path": str(write_manifest(work / name, arguments.rows, clips))}
            else:
                source = {"kind": "hf", "path": str(write_parquet(work / name, arguments.rows, clips))}
            figures.append(measure(work, name, source, arguments))
    table = Table("source", "rows", "part", *figures[0]["parts"]["all"], "equal after two kills", box=None)
    for figure in figures:
        for part, found in figure["parts"].items():
            table.add_row(figure["source"], str(figure["rows"]), part, *map(str, found.values()), str(figure["equal"]))
    console = Console(highlight=False, width=120 if not sys.stdout.isatty() else None)
    console.print(f"{arguments.workers} workers, load average {os.getloadavg()[0]:.1f}")
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if not all(figure["equal"] for figure in figures):
        raise SystemExit("a run that was killed and gone on with left other bytes than one in one go")


if __name__ == "__main__":
    main()
