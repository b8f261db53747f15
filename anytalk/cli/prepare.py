"""Turn training data into shards: ``anytalk prepare``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from anytalk.cli.bars import Bars
from anytalk.cli.devices import choose_device
from anytalk.cli.render import commands, count, err, note, out, seconds, size, table
from anytalk.errors import ConfigError
from anytalk.model.config import read_config
from anytalk.plugins.registry import default_registry

if TYPE_CHECKING:
    from anytalk.data.config import DataConfig, SourceConfig
    from anytalk.data.ledger import Ledger, Prepared
    from anytalk.data.prepare import PrepareWatcher

_PLAIN_EVERY_S = 15.0
_COUNTING_S = 3.0
"""Longest time to count the rows of a source, which the estimate of the remaining time needs."""


def command(
    data: Path = typer.Argument(help="data.yaml, or a manifest (.jsonl, .csv)."),
    folder: Path = typer.Option(..., "-o", "--out", help="Folder for the shards."),
    talker: Path = typer.Option(..., "--talker", help="Talker whose encoder and codec are used."),
    workers: int = typer.Option(1, min=1, help="Processes, each with its own encoder, codec and synthesizer."),
    features: bool = typer.Option(
        True, help="Keep encoder features; otherwise sound is kept and encoded during training."
    ),
    half: bool = typer.Option(False, "--half", help="Keep features as float16: half the space, not bit-exact."),
    bf16: bool = typer.Option(
        False, "--bf16", help="Run the encoder under bfloat16: rounded, and faster where the processor knows it."
    ),
    keep_sound: bool = typer.Option(
        False, "--keep-sound", help="Keep the questions' sound (FLAC), for stages that train the encoder."
    ),
    rows_per_shard: int = typer.Option(512, min=1, help="Rows read for one shard."),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
) -> None:
    """Turn data.yaml into shards: read, voice, encode, filter. Run again to resume."""
    from anytalk.data.config import read_data_config

    config = read_data_config(data)
    read_config(talker)
    if half and not features:
        raise ConfigError("--half applies to features, and --no-features keeps none", "leave one of the two out")
    with err.status("loading torch, the encoder and the codec ..."):
        from anytalk.data.prepare import PrepareOptions, prepare

        options = PrepareOptions(
            workers=workers,
            features=features,
            half=half,
            bf16=bf16,
            sound=keep_sound,
            rows_per_shard=rows_per_shard,
            device=choose_device(device),
        )
    with _Display(config) as display:
        try:
            prepared, ledger = prepare(config, folder, talker, options, watcher=display.watcher())
        except KeyboardInterrupt:
            display.close()
            note("interrupted; finished shards are kept: go on with the same command")
            raise typer.Exit(130) from None
    _summary(folder, talker, prepared, ledger)


class _Display(Bars):
    """Show progress bars on a terminal; print a plain line now and then elsewhere."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        super().__init__(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[what]}"),
            TimeRemainingColumn(),
        )
        self._bar: TaskID | None = None
        self._name = ""
        self._rows = 0
        self._total: int | None = None
        self._speech_s = 0.0
        self._began = self._said = time.perf_counter()

    def watcher(self) -> PrepareWatcher:
        from anytalk.data.prepare import PrepareWatcher

        return PrepareWatcher(source=self._source, rows=self._made)

    def _source(self, source: SourceConfig, done: int) -> None:
        total = _count_rows(source)
        if self._bar is None:
            # The clock starts with the first source, because loading the parts would spoil the rate.
            self._began = self._said = time.perf_counter()
            self._total = 0
        self._name = source.name
        self._total = None if total is None or self._total is None else self._total + max(0, total - done)
        if done:
            note(f"{source.name}: {done} rows were finished before")
        if self.progress is not None:
            if self._bar is None:
                self._bar = self.progress.add_task(source.name, total=self._total, what="")
            self.progress.update(self._bar, description=source.name, total=self._total)
        # Without a terminal there is no bar; any id shows that the clock has started.
        else:
            self._bar = TaskID(0)

    def _made(self, rows: int, speech_s: float) -> None:
        self._rows, self._speech_s = self._rows + rows, self._speech_s + speech_s
        if self.progress is not None and self._bar is not None:
            self.progress.update(self._bar, completed=self._rows, what=self._what())
        elif time.perf_counter() - self._said >= _PLAIN_EVERY_S:
            self._said = time.perf_counter()
            note(f"{self._name}: {self._what()}{self._remaining()}")

    def _what(self) -> str:
        took_s = max(time.perf_counter() - self._began, 1e-6)
        of = "" if self._total is None else f"/{self._total}"
        return f"{self._rows}{of} rows, {self._rows / took_s:.1f} rows/s, {self._speech_s / 3600:.2f} h of speech"

    def _remaining(self) -> str:
        if not self._total or not self._rows:
            return ""
        left_s = (time.perf_counter() - self._began) / self._rows * (self._total - self._rows)
        return f", {seconds(max(0.0, left_s))} left"


def _count_rows(source: SourceConfig) -> int | None:
    """Count the rows of a source; if that takes too long or the source isn't local, return its limit or None."""
    from anytalk.data.config import read_rows

    if not Path(source.path).exists():
        return source.limit
    began, number = time.perf_counter(), 0
    for _ in read_rows(source, default_registry(), strict=False):
        number += 1
        if time.perf_counter() - began > _COUNTING_S:
            return source.limit
    return number


def _summary(folder: Path, talker: Path, prepared: Prepared, ledger: Ledger) -> None:
    from anytalk.cli.data_stats import hours

    rows: list[tuple[str, ...]] = []
    for source in prepared.sources:
        records = ledger.of(source.slug)
        reasons: dict[str, int] = {}
        for record in records:
            for kind, number in record.rejected.items():
                reasons[kind] = reasons.get(kind, 0) + number
        rows.append(
            (
                source.config.name,
                str(sum(r.rows for r in records)),
                str(sum(r.kept for r in records)),
                ", ".join(f"{kind} {number}" for kind, number in sorted(reasons.items())) or "-",
                hours(sum(r.question_s for r in records) / 3600),
                hours(sum(r.answer_s for r in records) / 3600),
                size(sum(r.num_bytes for r in records)),
            )
        )
    columns = ("source", "rows", "kept", "left out", "questions", "answers", "size")
    out.print(table(f"{folder}: prepared", columns, rows, numbers=("rows", "kept", "questions", "answers", "size")))
    left_out = sum(sum(r.rejected.values()) for r in ledger.shards.values())
    if left_out:
        note(f"{count(left_out)} rows were left out; each with its reason in {folder / 'rejected.jsonl'}")
    if not any(r.kept for r in ledger.shards.values()):
        note("no row was kept: there is nothing to train on")
        return
    lines = [f"anytalk data preview {folder} -o preview", f"anytalk train {talker} --data {folder}"]
    commands("Type next", lines)
