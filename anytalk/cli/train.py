"""Train a talker by a recipe, with a plan before and a summary after: ``anytalk train``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

from anytalk.cli.bars import Bars
from anytalk.cli.devices import choose_device, set_threads
from anytalk.cli.render import commands, count, err, note, out, say, seconds, show_left_out, table
from anytalk.errors import ConfigError, DataError, UnknownNameError, did_you_mean
from anytalk.model.config import StageRecord, read_config
from anytalk.plugins.registry import default_registry
from anytalk.train.config import Recipe, StageConfig, find_recipe, override_stages, stages_to_do

if TYPE_CHECKING:
    from anytalk.train.freeze import PartReport
    from anytalk.train.loop import TrainingWatcher

_PRECISIONS = ("no", "fp16", "bf16")
_PLAIN_LINES = 10
"""How many progress lines a stage prints if there is no terminal."""

_MOST_WAITING, _LEAST_WAIT_S = 0.03, 5.0
"""A stage that waits longer for its data, as a share of its time and in seconds, gets a remark about ``--workers``."""


def command(
    folder: Path = typer.Argument(help="Talker folder."),
    data: str = typer.Option("", "--data", help="Prepared folder or its address, data.yaml, or a manifest."),
    held_out: str = typer.Option("", help="Held-out rows: losses are measured on them, nothing is learnt from them."),
    held_out_every: int = typer.Option(100, min=1, help="Steps between two held-out measurements."),
    recipe: str = typer.Option("paper", help="Registered recipe, or a .yaml file."),
    stage: str | None = typer.Option(None, help="Run only this stage of the recipe."),
    assignments: list[str] = typer.Option([], "--set", help="STAGE.field=value, or all.field=value. May be repeated."),
    restart: bool = typer.Option(False, "--restart", help="Start again: ignore checkpoints and finished stages."),
    plan: bool = typer.Option(False, "--plan", help="Estimate the memory of each stage and stop."),
    precision: str = typer.Option("no", help="Mixed precision: no, fp16 or bf16."),
    deepspeed: Path | None = typer.Option(None, help="DeepSpeed configuration (examples/deepspeed/zero2.json ...)."),
    workers: int = typer.Option(0, min=0, help="Processes that prepare batches ahead of time."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads."),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
    local_rank: int = typer.Option(-1, "--local_rank", "--local-rank", hidden=True, help="Given by launchers."),
) -> None:
    """Train a talker in stages. Ctrl-C stops; the same command resumes."""
    if precision not in _PRECISIONS:
        raise ConfigError(f"precision '{precision}' is unknown", f"use one of: {', '.join(_PRECISIONS)}")
    registry = default_registry()
    config = read_config(folder)
    chosen = choose_stages(find_recipe(recipe, registry), stage, assignments)
    if not data and not plan:
        raise DataError("no --data was given", "e.g. --data shards (from `anytalk prepare`), data.yaml or rows.jsonl")
    for option, place in (("--data", data), ("--held-out", held_out)):
        if place and "://" not in place and not Path(place).exists():
            raise DataError(
                f"'{place}' doesn't exist", f"give a prepared folder, a data.yaml or a manifest: {option} FILE"
            )
    # Checked from the files alone, so that a finished recipe needs no torch.
    if not stages_to_do(chosen, [record.name for record in config.history], folder, restart):
        say(f"nothing to do: {', '.join(s.name for s in chosen.stages)} finished before. --restart trains again.")
        return
    # Launchers start one process per device; only the first one prints.
    is_main = int(os.environ.get("RANK", "0")) == 0
    with err.status("loading torch and the talker ...") if is_main else nullcontext():
        from anytalk.data.opening import TrainingData
        from anytalk.model.talker import load_talker
        from anytalk.train.loop import RunSettings, train_recipe

        zero = _deepspeed(deepspeed)
        set_threads(threads)
        settings = RunSettings(
            precision=precision,
            deepspeed=zero,
            workers=workers,
            restart=restart,
            held_out=TrainingData(held_out) if held_out else None,
            held_out_every=held_out_every,
        )
        talker = load_talker(folder, registry=registry, device=choose_device(device))
    if plan:
        from anytalk.cli.train_plan import print_plan

        print_plan(talker, chosen, precision)
        return
    told = show_left_out if is_main else (lambda rows: None)
    with _Display() as display:
        try:
            records = train_recipe(talker, chosen, TrainingData(data, told=told), settings, display.watcher())
        except KeyboardInterrupt:
            display.close()
            how = "resume with the same command, without --restart" if restart else "resume with the same command"
            if is_main:
                note(f"interrupted; finished steps are saved: {how}")
            raise typer.Exit(130) from None
    if not is_main:
        return
    _summary(folder, records)
    for text in display.notices:
        note(text)
    for name, failure in registry.plugins.failures.items():
        note(f"plugin '{name}' failed: {failure}")


def _deepspeed(path: Path | None) -> dict[str, Any] | None:
    """Read the DeepSpeed configuration named by the option or by accelerate's launcher; None if there is none."""
    if path is None and os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return None
    from anytalk.train.deepspeed_engine import launched_config, read_deepspeed

    launched = launched_config()
    chosen = path or launched
    return None if chosen is None else read_deepspeed(chosen)


def choose_stages(recipe: Recipe, stage: str | None, assignments: Sequence[str]) -> Recipe:
    """Return the recipe with assignments applied and, if `stage` is given, only that stage.

    Raises:
        UnknownNameError: the recipe has no such stage.
        ConfigError: an assignment names an unknown stage or field, or a value isn't allowed.
    """
    recipe = override_stages(recipe, assignments)
    if stage is None:
        return recipe
    names = [s.name for s in recipe.stages]
    if stage not in names:
        raise UnknownNameError(
            f"recipe '{recipe.name}' has no stage '{stage}'{did_you_mean(stage, names)}", f"stages: {', '.join(names)}"
        )
    return recipe.model_copy(update={"stages": [s for s in recipe.stages if s.name == stage]})


class _Display(Bars):
    """Show progress bars on a terminal, and print a few plain lines elsewhere."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[what]}"),
        )
        self._bars: dict[str, TaskID] = {}
        self._began = time.perf_counter()
        self._first_step = 0
        self._tenth = 0
        self._held_out = ""
        self._waited: list[float] = []
        self._is_last = False
        self.notices: list[str] = []

    def watcher(self) -> TrainingWatcher:
        from anytalk.train.loop import TrainingWatcher

        return TrainingWatcher(
            plan=self._plan, data=self._data, step=self._step, resumed=self._resumed, notice=self._notice
        )

    def _plan(self, stage: StageConfig, report: list[PartReport]) -> None:
        rows = [(r.name, count(r.trainable) if r.trainable else "frozen", count(r.total)) for r in report]
        rows.append(("all", count(sum(r.trainable for r in report)), count(sum(r.total for r in report))))
        err.print(table(f"Stage '{stage.name}'", ("part", "trains", "parameters"), rows, ("trains", "parameters")))
        tasks = ", ".join(f"{name} {weight:g}" for name, weight in stage.tasks.items())
        note(f"{stage.steps} steps of {stage.batch_size} rows, peak rate {stage.learning_rate:g}, tasks {tasks}")
        self._first_step, self._began = 0, time.perf_counter()
        self._tenth, self._held_out, self._waited, self._is_last = 0, "", [], False

    def _notice(self, stage: StageConfig, text: str) -> None:
        """Print a remark now, or below the summary if the stage has ended."""
        if self._is_last:
            self.notices.append(text)
        else:
            note(text)

    def _bar(self, key: str, total: int | None, done: int, what: str = "") -> None:
        if self.progress is None:
            return
        if key not in self._bars:
            self._bars[key] = self.progress.add_task(key, total=total, what=what)
        self.progress.update(self._bars[key], completed=done, total=total, what=what)

    def _data(self, done: int, total: int | None) -> None:
        self._bar("encoding rows", total, done)
        if self.progress is None and done == total:
            note(f"{total} rows encoded in {seconds(time.perf_counter() - self._began)}")
        # Time per step must not include the encoding of rows.
        if done == total:
            self._began = time.perf_counter()

    def _resumed(self, stage: StageConfig, step: int) -> None:
        self._first_step = step
        note(f"resuming stage '{stage.name}' at step {step} of {stage.steps}")

    def _step(self, stage: StageConfig, step: int, metrics: dict[str, float]) -> None:
        # Steps that an earlier run made don't count.
        per_step = (time.perf_counter() - self._began) / max(1, step - self._first_step)
        shown = "  ".join(f"{name} {metrics[name]:.3f}" for name in ("loss", "text", "audio") if name in metrics)
        self._bar(stage.name, stage.steps, step, f"{shown}  {per_step:.2f} s/step")
        if "held_out.loss" in metrics:
            self._held_out = f"  held out {metrics['held_out.loss']:.3f}"
        # Not every step is logged, so take the first one at or after each tenth.
        tenth = _PLAIN_LINES * step // stage.steps
        if self.progress is None and (tenth > self._tenth or step in (1, stage.steps)):
            note(f"{stage.name} {step}/{stage.steps}  {shown}{self._held_out}  {per_step:.2f} s/step")
        self._tenth = tenth
        self._waited.append(metrics["data_share"])
        self._is_last = step == stage.steps
        share = sum(self._waited) / len(self._waited)
        if self._is_last and share > _MOST_WAITING and share * per_step * stage.steps > _LEAST_WAIT_S:
            self._notice(
                stage,
                f"stage '{stage.name}' waited for its data {share:.0%} of the time; --workers 2 or more would prepare "
                "its batches ahead of time",
            )


def _summary(folder: Path, records: Sequence[StageRecord]) -> None:
    rows: list[tuple[str, ...]] = [
        (r.name, str(r.steps), f"{r.loss_first:.3f}", f"{r.loss_last:.3f}", seconds(r.seconds), _curve(folder, r))
        for r in records
    ]
    columns: tuple[str, ...] = ("stage", "steps", "loss before", "loss after", "time", "curve")
    out.print(table(f"{folder.name}: trained", columns, rows, numbers=columns[1:5]))
    commands("Type next", [f'anytalk talk {folder} --text "Hello!" -o answer.wav', f"anytalk info {folder}"])


def _curve(folder: Path, record: StageRecord) -> str:
    return str(folder / record.curve) if record.curve else "-"
