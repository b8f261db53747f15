"""The training loop of a stage, on accelerate: freeze, optimise, log, checkpoint, save."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from anytalk.data.batches import batch_indices, batch_tasks, collate
from anytalk.data.examples import Example, make_examples, make_grid
from anytalk.data.examples import Progress as DataProgress
from anytalk.errors import ConfigError, TalkerError
from anytalk.grid.prompts import TrainingGrid
from anytalk.grid.tasks import Task
from anytalk.model.config import StageRecord
from anytalk.model.talker import Talker, save_talker
from anytalk.plugins.contracts import Row
from anytalk.train.checkpoint import Progress, load_checkpoint, remove_checkpoint, save_checkpoint
from anytalk.train.config import Recipe, StageConfig, checkpoint_folder, stages_to_do
from anytalk.train.curves import draw_curve
from anytalk.train.freeze import PartReport, apply_freeze
from anytalk.train.losses import LossWeights, batch_loss
from anytalk.train.schedule import learning_rate

_AVERAGED_STEPS = 5
"""Steps at each end of a stage whose mean loss is told."""


@dataclass
class Watcher:
    """What the caller is told while training; every function may be left as it is.

    Attributes:
        plan: A stage's parts are frozen and counted, before step 1.
        data: Rows encoded so far, of how many.
        step: A step was logged: stage, steps done, metrics.
        resumed: A stage goes on from a checkpoint at this step.
    """

    plan: Callable[[StageConfig, list[PartReport]], None] = field(default=lambda stage, report: None)
    data: DataProgress = field(default=lambda done, total: None)
    step: Callable[[StageConfig, int, dict[str, float]], None] = field(default=lambda stage, step, metrics: None)
    resumed: Callable[[StageConfig, int], None] = field(default=lambda stage, step: None)


def train_recipe(
    talker: Talker,
    recipe: Recipe,
    rows: Sequence[Row],
    *,
    restart: bool = False,
    precision: str = "no",
    watcher: Watcher | None = None,
) -> list[StageRecord]:
    """Run the stages that the talker has not finished yet, in order, as one resumable job.

    Args:
        talker: A saved talker; each finished stage is saved in its folder.
        recipe: Stages in order.
        rows: Training rows.
        restart: Forget checkpoints and train all stages again.
        precision: ``"no"``, ``"fp16"`` or ``"bf16"``.
        watcher: Who is told.
    """
    finished = [record.name for record in talker.config.history]
    todo = stages_to_do(recipe, finished, _saved_folder(talker), restart)
    return [train_stage(talker, s, rows, restart=restart, precision=precision, watcher=watcher) for s in todo]


def train_stage(
    talker: Talker,
    stage: StageConfig,
    rows: Sequence[Row],
    *,
    restart: bool = False,
    precision: str = "no",
    watcher: Watcher | None = None,
    stop_after: int | None = None,
) -> StageRecord:
    """Train one stage and save the talker.

    Args:
        talker: A saved talker.
        stage: What moves, on what, for how long.
        rows: Training rows.
        restart: Ignore a checkpoint of this stage.
        precision: Mixed precision.
        watcher: Who is told.
        stop_after: Stop (as if interrupted, with a checkpoint) after this many steps of this call.

    Raises:
        ConfigError: unknown parts or tasks, or a loss that is not a number.
        DataError: a row without what a task needs.
        KeyboardInterrupt: after a checkpoint was written.
    """
    watcher = watcher or Watcher()
    run = _StageRun(talker, _saved_folder(talker), stage, rows, precision, watcher)
    if restart:
        remove_checkpoint(run.checkpoint)
    return run.go(stop_after)


_TABLES = ("audio_embeddings.", "special_tokens.")


def _saved_folder(talker: Talker) -> Path:
    if talker.folder is None:
        raise TalkerError("a talker must be saved before it is trained", "attach it to a folder first")
    return talker.folder


class StopTrainingError(KeyboardInterrupt):
    """A stage stopped before its end, with a checkpoint to go on from."""


class _StageRun:
    """One stage from freezing to saving."""

    def __init__(
        self, talker: Talker, folder: Path, stage: StageConfig, rows: Sequence[Row], precision: str, watcher: Watcher
    ) -> None:
        self.talker, self.folder, self.stage, self.watcher = talker, folder, stage, watcher
        self.tell = talker.registry.plugins.tell
        self.checkpoint = checkpoint_folder(folder, stage.name)
        report = apply_freeze(talker.model, stage.train)
        watcher.plan(stage, report)
        counts = {r.name: {"trainable": r.trainable, "total": r.total} for r in report}
        self.tell("stage_started", stage=stage.name, report=counts)
        self.tasks = [_task(talker, name) for name in stage.tasks]
        streams = talker.model.layout.num_audio_streams
        if stage.stream_weights is not None and len(stage.stream_weights) != streams:
            raise ConfigError(
                f"stage '{stage.name}' has {len(stage.stream_weights)} stream_weights, the talker {streams} streams",
                "give one weight per stream, or leave stream_weights out",
            )
        # accelerate keeps its settings for the whole process; the next stage may ask for another precision.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=precision, cpu=talker.device == "cpu")
        self.optimizer = _optimizer(talker.model, stage)
        self.parameters = {n: p for n, p in talker.model.named_parameters() if p.requires_grad}
        trains_encoder = "encoder" in stage.train
        self.examples: list[Example] = make_examples(
            talker, rows, self.tasks, keep_waves=trains_encoder, progress=watcher.data
        )
        self.grids: dict[tuple[int, int], TrainingGrid] = {}
        self.idle_tasks: set[int] = set()
        self.weights = LossWeights(stage.text_weight, stage.audio_weight, stage.stream_weights)

    def go(self, stop_after: int | None) -> StageRecord:
        """Steps from the checkpoint, if there is one, to the end; then save."""
        stage, talker = self.stage, self.talker
        progress = load_checkpoint(self.checkpoint, stage.model_dump(mode="json"), self.parameters, self.optimizer)
        step, log, seconds = (0, [], 0.0) if progress is None else (progress.step, progress.log, progress.seconds)
        if progress is not None:
            self.watcher.resumed(stage, step)
        # The text path of a frozen backbone has no gradient to give; accelerate wraps what it must for DDP and ZeRO.
        model, optimizer = self.accelerator.prepare(talker.model, self.optimizer)
        started, first = time.perf_counter() - seconds, step
        try:
            while step < stage.steps:
                with _whole_step():
                    metrics = self._optimize(model, optimizer, step)
                    step += 1
                    is_logged = step % stage.log_every == 0 or step == stage.steps
                    if is_logged:
                        log.append({"step": step, **metrics})
                if is_logged:
                    self.watcher.step(stage, step, metrics)
                    self.tell("step_logged", stage=stage.name, step=step, metrics=metrics)
                if stop_after is not None and step - first >= stop_after and step < stage.steps:
                    raise StopTrainingError
                if step % stage.checkpoint_every == 0 and step < stage.steps:
                    self._save_checkpoint(step, time.perf_counter() - started, log)
        except KeyboardInterrupt:
            self._save_checkpoint(step, time.perf_counter() - started, log)
            raise
        return self._finish(log, time.perf_counter() - started)

    def _optimize(self, model: Any, optimizer: Any, step: int) -> dict[str, float]:
        """One optimizer step; returns its metrics."""
        stage = self.stage
        rate = learning_rate(
            step,
            steps=stage.steps,
            peak=stage.learning_rate,
            floor=stage.learning_rate_floor,
            warmup=stage.warmup_steps,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        begin, sums, positions = time.perf_counter(), dict[str, list[float]](), 0
        for micro in range(stage.accumulate):
            batch_number = step * stage.accumulate + micro
            batch = self._batch(batch_number)
            positions += batch.tokens.shape[0] * batch.tokens.shape[2]
            with self.accelerator.autocast():
                loss, metrics = batch_loss(self.accelerator.unwrap_model(model), batch, self.weights)
            if not torch.isfinite(loss):
                raise ConfigError(
                    f"the loss of stage '{stage.name}' is {metrics['loss']} at step {step + 1}",
                    "lower learning_rate, or use fp32",
                )
            if loss.requires_grad:
                self.accelerator.backward(loss / stage.accumulate)
            else:
                self._note_idle(batch_number)
            for name, value in metrics.items():
                sums.setdefault(name, []).append(value)
        self.accelerator.clip_grad_norm_(list(self.parameters.values()), stage.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        means = {name: sum(values) / len(values) for name, values in sums.items()}
        return {**means, "learning_rate": rate, "positions_per_s": positions / (time.perf_counter() - begin)}

    def _note_idle(self, batch_number: int) -> None:
        """Remember tasks whose loss no trained part has a hand in; ConfigError once they are all of the stage's."""
        self.idle_tasks.update(self._batch_tasks(batch_number))
        if len(self.idle_tasks) == len(self.tasks):
            stage = self.stage
            raise ConfigError(
                f"stage '{stage.name}' trains {', '.join(stage.train)}, but no task of it uses that "
                f"(tasks: {', '.join(stage.tasks)})",
                "add a task that they take part in, or train other parts",
            )

    def _batch_tasks(self, index: int) -> list[int]:
        stage = self.stage
        return batch_tasks(stage.seed, index, stage.batch_size, list(stage.tasks.values()))

    def _batch(self, index: int) -> Any:
        stage, talker = self.stage, self.talker
        chosen = batch_indices(stage.seed, index, stage.batch_size, len(self.examples))
        items = [(self.examples[e], self._grid(e, t)) for e, t in zip(chosen, self._batch_tasks(index), strict=True)]
        return collate(talker.model.layout, items, talker.config.speakers, talker.device)

    def _grid(self, example: int, task: int) -> TrainingGrid:
        key = (example, task)
        if key not in self.grids:
            self.grids[key] = make_grid(self.talker, self.examples[example], self.tasks[task], self.stage.learn_pads)
        return self.grids[key]

    def _save_checkpoint(self, step: int, seconds: float, log: list[dict[str, float]]) -> None:
        progress = Progress(self.stage.model_dump(mode="json"), step, seconds, log)
        save_checkpoint(self.checkpoint, progress, self.parameters, self.optimizer)

    def _finish(self, log: list[dict[str, float]], seconds: float) -> StageRecord:
        stage, talker = self.stage, self.talker
        talker.model.eval()
        history = self.folder / "history"
        history.mkdir(parents=True, exist_ok=True)
        draw_curve(history / f"{stage.name}.png", f"{self.folder.name}: stage '{stage.name}'", log)
        (history / f"{stage.name}.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log), encoding="utf-8")
        _tensorboard(history / "tensorboard" / stage.name, log)
        losses = [entry["loss"] for entry in log]
        record = StageRecord(
            name=stage.name,
            trained=sorted(stage.train),
            steps=stage.steps,
            loss_first=_mean(losses[:_AVERAGED_STEPS]),
            loss_last=_mean(losses[-_AVERAGED_STEPS:]),
            seconds=round(seconds, 1),
            curve=f"history/{stage.name}.png",
        )
        save_talker(talker, self.folder, trained=set(stage.train), record=record)
        remove_checkpoint(self.checkpoint)
        self.tell("stage_finished", stage=stage.name, folder=self.folder)
        return record


@contextmanager
def _whole_step() -> Iterator[None]:
    """Hold Ctrl-C back until the step is whole: a checkpoint made in the middle of one would not resume exactly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


def _task(talker: Talker, name: str) -> Task:
    task: Task = talker.registry.load("task", name)
    return task


def _optimizer(model: nn.Module, stage: StageConfig) -> torch.optim.AdamW:
    """AdamW over what is trainable; matrices decay, biases, norms and embedding tables don't."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decays = [p.ndim == 2 and id(p) not in tables and not n.startswith(_TABLES) for n, p in named]
    decayed = [p for (_, p), does in zip(named, decays, strict=True) if does]
    plain = [p for (_, p), does in zip(named, decays, strict=True) if not does]
    groups = [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=stage.learning_rate, betas=(0.9, 0.95))


def _tensorboard(folder: Path, log: Sequence[dict[str, float]]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for entry in log:
            for name, value in entry.items():
                if name != "step":
                    writer.add_scalar(name, value, int(entry["step"]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
