"""The training loop: stages in order, and each stage's optimizer steps, the same on one process and on many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from anytalk.data.batches import Batch, Step, Steps, StepSettings, lay_out_ahead
from anytalk.data.examples import Progress as DataProgress
from anytalk.data.opening import TrainingData
from anytalk.errors import AnytalkError, ConfigError, TalkerError
from anytalk.grid.tasks import Task, find_task
from anytalk.model.config import StageRecord
from anytalk.model.parent import load_parent
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import Backbone
from anytalk.train.checkpoint import Progress, load_checkpoint, remove_checkpoint, save_checkpoint
from anytalk.train.config import Recipe, StageConfig, checkpoint_folder, stages_to_do
from anytalk.train.engine import make_accelerator, make_engine
from anytalk.train.finish import finish_stage
from anytalk.train.freeze import PartReport, apply_freeze
from anytalk.train.guard import LossGuard
from anytalk.train.held_out import HELD_OUT_ROWS, HeldOut
from anytalk.train.losses import ALIGN, DISTILL, NOT_AUDIO, LossModule, LossSettings, hear
from anytalk.train.optimizer import make_optimizer
from anytalk.train.schedule import learning_rate
from anytalk.train.signals import StopWish, held_signals
from anytalk.train.soft_codes import soft_codes_of


@dataclass
class Watcher:
    """What the caller is told while training, on the main process; every function may be left as it is.

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


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a job runs: what a recipe doesn't say, because it depends on the machine.

    Attributes:
        precision: ``"no"`` (float32), ``"bf16"`` or ``"fp16"``.
        deepspeed: DeepSpeed's configuration (:func:`anytalk.train.deepspeed_engine.read_deepspeed`), or None.
        workers: Processes that lay out batches ahead of time; 0: none beside the loop's own.
        restart: Forget checkpoints and train finished stages again.
        stop_after: Stop (as if interrupted, with a checkpoint) after this many steps of a stage.
        held_out: Rows that the losses are also measured on, and nothing is learned from.
        held_out_every: Steps between two such looks.
    """

    precision: str = "no"
    deepspeed: dict[str, Any] | None = None
    workers: int = 0
    restart: bool = False
    stop_after: int | None = None
    held_out: TrainingData | None = None
    held_out_every: int = 100


def train_recipe(
    talker: Talker,
    recipe: Recipe,
    data: TrainingData,
    settings: RunSettings | None = None,
    watcher: Watcher | None = None,
) -> list[StageRecord]:
    """Run the stages that the talker has not finished yet, in order, as one resumable job.

    Args:
        talker: A saved talker; each finished stage is saved in its folder.
        recipe: Stages in order.
        data: Training rows.
        settings: How the job runs.
        watcher: Who is told.
    """
    settings = settings or RunSettings()
    finished = [record.name for record in talker.config.history]
    todo = stages_to_do(recipe, finished, _saved_folder(talker), settings.restart)
    tasks = {name: find_task(name) for stage in todo for name in stage.tasks}
    waves = any("encoder" in stage.parts for stage in recipe.stages)
    records: list[StageRecord] = []
    for stage in todo:
        if records and settings.deepspeed is not None:
            # DeepSpeed leaves a module that only it can use.
            talker = load_talker(_saved_folder(talker), registry=talker.registry, device=talker.device)
        records.append(_train(talker, stage, data, list(tasks.values()), waves, settings, watcher or Watcher()))
    return records


def train_stage(
    talker: Talker,
    stage: StageConfig,
    data: TrainingData,
    settings: RunSettings | None = None,
    watcher: Watcher | None = None,
) -> StageRecord:
    """Train one stage and save the talker.

    Args:
        talker: A saved talker.
        stage: What moves, on what, for how long.
        data: Training rows.
        settings: How the job runs.
        watcher: Who is told.

    Raises:
        ConfigError: unknown parts or tasks, or a loss that is not a number again and again.
        DataError: a row without what a task needs.
        KeyboardInterrupt: after a checkpoint was written.
    """
    tasks = [find_task(name) for name in stage.tasks]
    return _train(talker, stage, data, tasks, "encoder" in stage.parts, settings or RunSettings(), watcher or Watcher())


class StopTrainingError(KeyboardInterrupt):
    """A stage stopped before its end, with a checkpoint to go on from."""


def _saved_folder(talker: Talker) -> Path:
    if talker.folder is None:
        raise TalkerError("a talker must be saved before it is trained", "attach it to a folder first")
    return talker.folder


def _train(
    talker: Talker,
    stage: StageConfig,
    data: TrainingData,
    tasks: Sequence[Task],
    waves: bool,
    settings: RunSettings,
    watcher: Watcher,
) -> StageRecord:
    run = StageRun(talker, _saved_folder(talker), stage, settings, watcher)
    run.open(data, tasks, waves)
    encoder = talker.model.encoder
    try:
        if "encoder" not in stage.parts:
            talker.model.encoder = None  # engines wrap and shard what they see, and a frozen encoder needs neither
        own = [talker.device] if talker.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=own), held_signals() as wish:
            return run.go(encoder, wish)
    finally:
        if encoder is not None:
            talker.model.encoder = encoder


class StageRun:
    """One stage from freezing to saving."""

    def __init__(
        self, talker: Talker, folder: Path, stage: StageConfig, settings: RunSettings, watcher: Watcher
    ) -> None:
        self.talker, self.folder, self.stage, self.settings, self.watcher = talker, folder, stage, settings, watcher
        self.tell = talker.registry.plugins.tell
        self.checkpoint = checkpoint_folder(folder, stage.name)
        self.tasks = [find_task(name) for name in stage.tasks]
        self.accelerator = make_accelerator(settings.precision, talker.device == "cpu")
        report = apply_freeze(talker.model, stage.train, stage.lora)
        if self.accelerator.is_main_process:
            watcher.plan(stage, report)
            counts = {r.name: {"trainable": r.trainable, "total": r.total} for r in report}
            self.tell("stage_started", stage=stage.name, report=counts)
        streams = talker.model.layout.num_audio_streams
        if stage.stream_weights is not None and len(stage.stream_weights) != streams:
            raise ConfigError(
                f"stage '{stage.name}' has {len(stage.stream_weights)} stream_weights, the talker {streams} streams",
                "give one weight per stream, or leave stream_weights out",
            )
        self.idle_tasks: set[int] = set()

    def open(self, data: TrainingData, tasks: Sequence[Task], waves: bool) -> None:
        """Open the data and lay out the stage's steps."""
        stage, talker = self.stage, self.talker
        progress = self.watcher.data if self.accelerator.is_main_process else None
        feeds = data.feeds(talker, tasks, waves=waves, progress=progress)
        weights = talker.config.weights
        settings = StepSettings(
            tasks=stage.tasks,
            batch_size=stage.batch_size,
            max_positions=stage.max_positions,
            max_padding=stage.max_padding,
            learn_pads=stage.learn_pads,
            twins=stage.losses.get(DISTILL, 0.0) > 0,
            transcripts=stage.losses.get(ALIGN, 0.0) > 0,
            waves="encoder" in stage.parts or (waves and weights is not None and "encoder" in weights.parts),
            seed=stage.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        self.steps = Steps(talker, feeds, settings)
        self.held_out: HeldOut | None = None
        if self.settings.held_out is not None:
            others = self.settings.held_out.feeds(talker, tasks, waves=waves)
            looked_at = replace(settings, batch_size=HELD_OUT_ROWS)
            work = Steps(talker, others, looked_at)[0]
            self.held_out = HeldOut(work, self.settings.held_out_every, stage.seed)
        self.rows = {
            f"{feed.name}/{task}": len(feed.indices(task)) for feed in feeds for task in stage.tasks
        }  # what a checkpoint remembers of the data

    def go(self, encoder: Any, wish: StopWish) -> StageRecord:
        """Train to the end of the stage, or to a wish to stop."""
        stage, talker = self.stage, self.talker
        if stage.gradient_checkpointing:
            talker.model.backbone.checkpoint_activations(True)
        zero = self.settings.deepspeed
        soft = soft_codes_of(talker, stage.code_softness, stage.name)
        self.module = LossModule(
            talker.model,
            LossSettings(stage.losses, stage.stream_weights, stage.distill_temperature, soft),
            teacher=self._teacher(),
            listens=any(task.speech_in for task in self.tasks),
            speaks=any(task.audio_out for task in self.tasks) and stage.losses.get("audio", 0.0) > 0,
            uniform=zero is not None,  # on one device too: offload forgets what a step's last pass didn't use
            share_prefix=not stage.gradient_checkpointing,
        )
        optimizer = make_optimizer(talker.model, stage, fused=zero is None)
        self.engine = make_engine(self.accelerator, self.module, optimizer, stage.clip_norm, zero)
        fresh = Progress(stage.model_dump(mode="json"), self.rows)
        if self.settings.restart:
            if self.engine.is_main:
                remove_checkpoint(self.checkpoint)
            self.engine.wait()
        found = load_checkpoint(self.checkpoint, fresh, self.engine)
        progress = found or fresh
        if found is not None and self.engine.is_main:
            self.watcher.resumed(stage, found.step)
        self.guard = LossGuard(stage, progress.mean_loss, progress.skipped)
        self.began = time.perf_counter() - progress.seconds
        self.encoder = encoder
        try:
            log = self._loop(progress.step, progress.log, wish)
        finally:
            if stage.gradient_checkpointing:
                talker.model.backbone.checkpoint_activations(False)
        talker.model.encoder = encoder
        record = finish_stage(
            talker, self.folder, stage, self.engine, log, time.perf_counter() - self.began, self.checkpoint
        )
        if self.engine.is_main:
            self.tell("stage_finished", stage=stage.name, folder=self.folder)
        return record

    def _loop(self, first: int, log: list[dict[str, float]], wish: StopWish) -> list[dict[str, float]]:
        stage, step = self.stage, first
        try:
            for work in lay_out_ahead(self.steps, first, stage.steps, self.settings.workers):
                metrics, stops = self._optimize(work, step, wish)
                step += 1
                looks = self.held_out is not None and self.held_out.is_due(step, stage.steps)
                if looks and self.held_out is not None:
                    metrics |= self.held_out.look(self.engine, self.module, self._here, self._metrics)
                if looks or step % stage.log_every == 0 or step == stage.steps:
                    log.append({"step": step, **metrics})
                    if self.engine.is_main:
                        self.watcher.step(stage, step, metrics)
                        self.tell("step_logged", stage=stage.name, step=step, metrics=metrics)
                # Several processes must agree, and do so once a step; one alone needn't wait for the next.
                stops |= wish.wanted and self.engine.world == 1
                stops |= self.settings.stop_after is not None and step - first >= self.settings.stop_after
                if stops and step < stage.steps:
                    self._save(step, log)
                    raise StopTrainingError
                if step % stage.checkpoint_every == 0 and step < stage.steps:
                    self._save(step, log)
        except StopTrainingError:
            raise
        except KeyboardInterrupt:  # from the watcher or an observer, between two steps
            if self.engine.world == 1 and not wish.wanted:
                self._save(step, log)
            raise
        except RuntimeError as error:
            raise _lost_peer(error) if self.engine.world > 1 else error from None
        return log

    def _optimize(self, work: Step, step: int, wish: StopWish) -> tuple[dict[str, float], bool]:
        """One optimizer step; returns its metrics, and whether any process wants to stop."""
        stage, engine, module = self.stage, self.engine, self.module
        # Dropout's random numbers are a function of the step, so that a checkpoint needs none.
        torch.manual_seed((stage.seed * 1_000_003 + step) * 1_009 + self.accelerator.process_index)
        begin = time.perf_counter()
        rate = self._rate(step)
        engine.set_rate(rate)
        factors = module.factors(work.counts)
        total = torch.zeros(len(module.names) + 1, dtype=torch.float64, device=self.talker.device)
        can_learn = False
        skip = stops = False
        for number, batch in enumerate(work.passes):
            loss, sums = engine.forward(self._here(batch), factors)
            total[:-1] += sums.double()
            can_learn |= loss.requires_grad
            last = number == len(work.passes) - 1
            if last:
                total[-1] = float(wish.wanted)
                total = engine.sum(total).cpu()
                stops = bool(total[-1])
                metrics = self._metrics(total[:-1], factors, work)
                skip = self.guard.refuses(metrics["loss"])
            engine.backward(loss * float("nan") if skip else loss, last)
        if not can_learn:
            self._note_idle(work)
        norm = engine.step(skip)
        if skip or not math.isfinite(norm):
            self.guard.left_out(step, metrics["loss"], norm, work.rows)
        else:
            self.guard.took(metrics["loss"])
        metrics |= {"learning_rate": rate, "grad_norm": norm, "skipped": float(self.guard.skipped)}
        speed = {"positions_per_s": work.positions / (time.perf_counter() - begin), "padding": work.padding}
        # What isn't a number isn't logged: the log is JSON, which knows none of them.
        return {name: value for name, value in (metrics | speed).items() if math.isfinite(value)}, stops

    def _here(self, batch: Batch) -> Batch:
        """A batch on the device, with what a frozen encoder hears in it."""
        batch = batch.to(self.talker.device)
        if self.encoder is not None and self.talker.model.encoder is None:
            batch = hear(self.encoder, batch)
        return batch

    def _rate(self, step: int) -> float:
        stage = self.stage
        return learning_rate(
            step,
            steps=stage.steps,
            peak=stage.learning_rate,
            floor=stage.learning_rate_floor,
            warmup=stage.warmup_steps,
        )

    def _metrics(self, sums: torch.Tensor, factors: torch.Tensor, work: Step) -> dict[str, float]:
        """Means per token of each loss that was in the step, and the weighted whole."""
        values = dict(zip(self.module.names, sums.tolist(), strict=True))
        weighed = dict(zip(self.module.names, factors.tolist(), strict=True))
        means = {n: v / work.counts[n] for n, v in values.items() if work.counts.get(n) and weighed[n]}
        audio = [value for name, value in means.items() if name not in NOT_AUDIO]
        if audio:
            means["audio"] = sum(audio) / len(audio)
        return {**means, "loss": float((sums * factors).sum())}

    def _note_idle(self, work: Step) -> None:
        """Remember tasks whose loss no trained part has a hand in; ConfigError once they are all of the stage's."""
        self.idle_tasks.update(work.tasks)
        if len(self.idle_tasks) == len(self.tasks):
            stage = self.stage
            raise ConfigError(
                f"stage '{stage.name}' trains {', '.join(stage.train)}, but no task of it uses that "
                f"(tasks: {', '.join(stage.tasks)})",
                "add a task that they take part in, or train other parts",
            )

    def _teacher(self) -> Backbone | None:
        stage = self.stage
        if not stage.losses.get(DISTILL):
            return None
        return load_parent(self.talker) if "backbone" in stage.parts else self.talker.model.backbone

    def _save(self, step: int, log: list[dict[str, float]]) -> None:
        seconds = time.perf_counter() - self.began
        guard = self.guard
        now = Progress(
            self.stage.model_dump(mode="json"), self.rows, step, seconds, guard.mean_loss, guard.skipped, log
        )
        save_checkpoint(self.checkpoint, now, self.engine)


def _lost_peer(error: RuntimeError) -> Exception:
    """The sentence for a process whose partner has gone; any other error as it is."""
    text = str(error)
    if not any(sign in text for sign in ("Connection closed by peer", "Connection reset", "NCCL", "Timed out waiting")):
        return error
    return AnytalkError(
        "another process of this job has ended; its own message says why (out of memory? killed?)",
        "start the same command again: it resumes from the last checkpoint",
    )
