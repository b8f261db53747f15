"""Measure a talker by a suite and check bounds on its figures: ``anytalk eval``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

from anytalk.cli.bars import Bars
from anytalk.cli.devices import choose_device, set_threads
from anytalk.cli.render import complain, loading, note, out, say, seconds, table
from anytalk.errors import DataError
from anytalk.model.config import TalkerConfig, read_config
from anytalk.plugins.registry import Registry, default_registry

if TYPE_CHECKING:
    from anytalk.evaluate.config import AnyMeasure, Suite
    from anytalk.evaluate.report import Report
    from anytalk.evaluate.results import Result
    from anytalk.evaluate.run import EvalWatcher

_COLUMNS = ("metric", "value", "95 % interval", "n")


def command(
    folder: Path = typer.Argument(help="Talker folder."),
    suite: Path = typer.Option(..., "--suite", help="Suite (.yaml) with measures and rows."),
    report: Path = typer.Option(Path("report"), "-o", "--out", help="Folder for the report."),
    baseline: str | None = typer.Option(None, help="'cascade': Whisper, the parent LLM and a synthesizer in a row."),
    fail_if: list[str] = typer.Option(
        [], "--fail-if", help="Exit 1 on a condition such as 'text_retention<0.99'. May be repeated."
    ),
    seed: int | None = typer.Option(None, help="Seed; default: the suite's."),
    arithmetic: str | None = typer.Option(
        None,
        help="exact, fused, graphs, packed, int8 or int4; default: from talker.yaml.",
    ),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads."),
) -> None:
    """Measure a talker: hearing, speech, lost ability of its parent, speed. Run again to resume."""
    config = read_config(folder)
    from anytalk.evaluate.bounds import parse_bounds
    from anytalk.evaluate.config import read_suite

    chosen = read_suite(suite)
    if chosen.left_out and not chosen.measures:
        raise DataError(f"no measure of '{suite}' can run: {chosen.left_out}")
    if chosen.left_out:
        note(chosen.left_out)
    if baseline is not None:
        chosen = chosen.with_baseline(baseline)
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    bounds = parse_bounds(fail_if, chosen)
    registry = default_registry()
    # Everything that can be checked without the weights is checked before they are loaded.
    check_suite(chosen, config, registry)
    if report.exists() and not report.is_dir():
        raise DataError(f"'{report}' is a file; a folder is expected", "choose another -o")
    with loading():
        from anytalk.decode.ready import make_talker_ready
        from anytalk.evaluate.run import run_suite
        from anytalk.model.talker import load_talker

        set_threads(threads)
        talker = load_talker(folder, registry=registry, device=choose_device(device), with_encoder=config.hears)
        make_talker_ready(talker, arithmetic)
    with _Display() as display:
        try:
            made = run_suite(
                talker,
                chosen,
                report,
                bounds=bounds,
                command=["anytalk", *(shlex.quote(word) for word in sys.argv[1:])],
                watcher=display.watcher(),
            )
        except KeyboardInterrupt:
            display.close()
            note("interrupted; finished measures are kept: go on with the same command")
            raise typer.Exit(130) from None
    _summary(made, report)
    failures, broken = made.failures(), made.broken_bounds()
    for sentence in failures + broken:
        complain(sentence)
    if failures or broken:
        raise typer.Exit(1)


def check_suite(suite: Suite, config: TalkerConfig, registry: Registry) -> None:
    """Check the names of parts and sources, and their options, before anything is loaded.

    Raises:
        UnknownNameError: a name that no plugin offers.
        ConfigError: wrong options, or a voice that the talker doesn't have.
    """
    from anytalk.data.augment import make_augment

    registry.find("transcriber", suite.transcriber.name)
    if suite.synthesizer is not None:
        registry.find("synthesizer", suite.synthesizer.name)
    for source in [suite.source, *(measure.source for measure in suite.measures)]:
        if source is not None:
            registry.find("data source", source.kind)
    for refs in [suite.augment, *(measure.augment for measure in suite.measures)]:
        make_augment(refs or [], suite.seed, registry)
    config.check_speaker(suite.speaker, "`speaker`")


class _Display(Bars):
    """Show a bar for the running measure on a terminal; print one line per measure elsewhere."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar: TaskID | None = None

    def watcher(self) -> EvalWatcher:
        from anytalk.evaluate.run import EvalWatcher

        return EvalWatcher(started=self._started, progress=self._moved, finished=self._finished)

    def _started(self, measure: AnyMeasure) -> None:
        if self.progress is not None:
            self._bar = self.progress.add_task(measure.label, total=None)

    def _moved(self, done: int, total: int | None) -> None:
        if self.progress is not None and self._bar is not None:
            self.progress.update(self._bar, completed=done, total=total)

    def _finished(self, result: Result) -> None:
        if self.progress is not None and self._bar is not None:
            self.progress.remove_task(self._bar)
            self._bar = None
        how = f"{len(result.items)} examples" if result.status == "ok" else "failed"
        note(f"{result.label}: {how}, {seconds(result.seconds)}")


def _summary(made: Report, folder: Path) -> None:
    from anytalk.evaluate.metrics import METRICS, format_interval, format_value

    rows = []
    for result in made.results:
        for name, figure in result.figures.items():
            unit = METRICS[result.kind][name].unit
            interval = format_interval(figure.low, figure.high, unit)
            rows.append((f"{result.label}.{name}", format_value(figure.value, unit), interval, str(figure.n)))
    shown = table(made.suite.name, _COLUMNS, rows, numbers=("value", "n"))
    shown.columns[0].no_wrap = True  # --fail-if takes these names, so they must be easy to copy
    out.print(shown)
    beside = made.compared()
    if beside is not None:
        # What is in brackets gets a line of its own, so that 80 columns are enough.
        columns, *lines = (
            [who, *(cell.replace(" (", "\n(") for cell in cells)] for who, *cells in (beside[0], *beside[1])
        )
        out.print(table(f"{made.suite.name}, beside others", columns, lines, numbers=columns[1:]))
    for result in made.results:
        for sentence in result.notes:
            note(f"{result.label}: {sentence}")
    say(f"report: {folder / 'report.md'}")
