"""Run the training loop: stages in order, and the optimizer steps of each, on one process or on many."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from anytalk.data.batches import Step, lay_out_ahead
from anytalk.data.opening import TrainingData
from anytalk.errors import AnytalkError, ConfigError
from anytalk.grid.tasks import Task, find_task
from anytalk.model.config import StageRecord
from anytalk.model.talker import Talker, load_talker
from anytalk.train.checkpoint import StageState, save_checkpoint
from anytalk.train.config import Recipe, StageConfig, stages_to_do
from anytalk.train.finish import finish_stage
from anytalk.train.plateau import plateau
from anytalk.train.schedule import learning_rate
from anytalk.train.signals import StopWish, held_signals
from anytalk.train.stage import (
    RunSettings,
    Stage,
    TrainingWatcher,
    prepare_stage,
    recomputing,
    saved_folder,
)

__all__ = ["RunSettings", "TrainingWatcher", "run", "train_recipe", "train_stage"]


def train_recipe(
    talker: Talker,
    recipe: Recipe,
    data: TrainingData,
    settings: RunSettings | None = None,
    watcher: TrainingWatcher | None = None,
) -> list[StageRecord]:
    """Run the stages that the talker hasn't finished, in order, as one resumable job.

    Args:
        talker: A saved talker; each finished stage is saved in its folder.
    """
    settings = settings or RunSettings()
    finished = [record.name for record in talker.config.history]
    todo = stages_to_do(recipe, finished, saved_folder(talker), settings.restart)
    tasks = {name: find_task(name) for config in todo for name in config.tasks}
    waves = any("encoder" in config.parts for config in recipe.stages)
    records: list[StageRecord] = []
    for config in todo:
        if records and settings.deepspeed is not None:
            # DeepSpeed leaves behind a module that only DeepSpeed can use.
            talker = load_talker(saved_folder(talker), registry=talker.registry, device=talker.device)
        records.append(_train(talker, config, data, settings, watcher, list(tasks.values()), waves))
    return records


def train_stage(
    talker: Talker,
    config: StageConfig,
    data: TrainingData,
    settings: RunSettings | None = None,
    watcher: TrainingWatcher | None = None,
) -> StageRecord:
    """Train one stage and save the talker.

    Raises:
        ConfigError: unknown parts or tasks, or a loss that is not finite for several steps in a row.
        DataError: a row without a field that its task needs.
        KeyboardInterrupt: training was interrupted; a checkpoint has been written.
    """
    tasks = [find_task(name) for name in config.tasks]
    return _train(talker, config, data, settings or RunSettings(), watcher, tasks, "encoder" in config.parts)


def _train(
    talker: Talker,
    config: StageConfig,
    data: TrainingData,
    settings: RunSettings,
    watcher: TrainingWatcher | None,
    tasks: Sequence[Task],
    waves: bool,
) -> StageRecord:
    watcher = watcher or TrainingWatcher()
    # Training seeds the global generators; the caller gets their states back.
    devices = [talker.device] if talker.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        with recomputing(talker.model.backbone, config):
            stage = prepare_stage(talker, config, data, settings, watcher, tasks, waves)
            try:
                state = run(stage, watcher, settings.workers)
            finally:
                if stage.board is not None:
                    stage.board.close()
        return finish_stage(stage, state)


def run(stage: Stage, watcher: TrainingWatcher, workers: int = 0) -> StageState:
    """Train to the end of a stage, or until a stop is requested.

    Raises:
        KeyboardInterrupt: a stop was requested; a checkpoint has been written.
        ConfigError: too many bad steps in a row, or no task of the stage uses the parts that train.
        AnytalkError: another process of the job has ended.
    """
    config, engine, guard = stage.config, stage.engine, stage.guard
    step, log, began = stage.state.step, stage.state.log, time.perf_counter() - stage.state.seconds
    idle: set[int] = set()
    stops, is_flat = False, False
    waited_s = worked_s = 0.0

    def state() -> StageState:
        now = replace(stage.state, step=step, seconds=time.perf_counter() - began, log=log)
        return replace(now, mean_loss=guard.mean_loss, skipped=guard.skipped)

    with held_signals() as wish:
        try:
            for work, took_s in _timed(lay_out_ahead(stage.steps, step, config.steps, workers)):
                # 1. Take an optimizer step.
                begin = time.perf_counter()
                metrics, asked = _take_step(stage, work, step, wish, idle)
                waited_s, worked_s = waited_s + took_s, worked_s + time.perf_counter() - begin
                step += 1
                more = step < config.steps

                # 2. Measure the losses on held-out rows.
                looks = stage.held_out is not None and stage.held_out.is_due(step, config.steps)
                if stage.held_out is not None and looks:
                    metrics |= stage.held_out.look(engine, stage.ready)

                # 3. Log.
                if looks or step % config.log_every == 0 or not more:
                    metrics["data_share"] = waited_s / (waited_s + worked_s)
                    waited_s = worked_s = 0.0
                    log.append({"step": step, **metrics})
                    if engine.is_main:
                        watcher.step(config, step, metrics)
                        stage.tell("step_logged", step=step, metrics=metrics)
                    if stage.board is not None:
                        stage.board.scalars(step, metrics)

                # 4. Write answers to held-out rows, and report a plateau once, when it begins and at the end.
                if stage.held_out is not None and looks and stage.board is not None:
                    if not engine.wraps_module:
                        stage.board.answers(stage.talker, stage.held_out.rows, step)
                    said = plateau(config.name, config.learning_rate, log)
                    if said is not None and not (is_flat and more):
                        watcher.notice(config, said)
                        stage.board.text("plateau", said, step)
                    is_flat = said is not None

                # 5. Save a checkpoint, and stop if asked: a single process now, several after the step they agree on.
                stops = more and (asked or (wish.wanted and engine.world == 1))
                if stops or (more and step % config.checkpoint_every == 0):
                    if stage.board is not None:
                        stage.board.flush()
                    save_checkpoint(stage.checkpoint, state(), engine)
                if stops:
                    break
        except KeyboardInterrupt:  # raised by the watcher or an observer, between two steps
            if engine.world == 1 and not wish.wanted:
                save_checkpoint(stage.checkpoint, state(), engine)
            raise
        except RuntimeError as error:
            raise _lost_peer(error) if engine.world > 1 else error from None
    if stops:
        raise KeyboardInterrupt
    return state()


def _timed(works: Iterable[Step]) -> Iterator[tuple[Step, float]]:
    """Yield the work of each step, and the seconds that the loop waited for it."""
    begin = time.perf_counter()
    for work in works:
        yield work, time.perf_counter() - begin
        begin = time.perf_counter()


def _take_step(stage: Stage, work: Step, step: int, wish: StopWish, idle: set[int]) -> tuple[dict[str, float], bool]:
    """Take one optimizer step; return its metrics and whether any process wants to stop."""
    config, module, engine, guard = stage.config, stage.module, stage.engine, stage.guard
    # 1. Set the rate and seed dropout. Both depend on the step alone, so a checkpoint needs neither.
    begin = time.perf_counter()
    torch.manual_seed((config.seed * 1_000_003 + step) * 1_009 + engine.rank)  # differs by seed, step and device
    rate = learning_rate(
        step,
        steps=config.steps,
        peak=config.learning_rate,
        floor=config.learning_rate_floor,
        warmup=config.warmup_steps,
    )
    engine.set_rate(rate)

    # 2. Run each pass forward and backward; each adds its share of the step's loss.
    factors = module.factors(work.counts)
    total = torch.zeros(len(module.names) + 1, dtype=torch.float64, device=stage.talker.device)
    can_learn = skip = False
    for number, batch in enumerate(work.passes, start=1):
        loss, sums = engine.forward(stage.ready(batch), factors)
        total[:-1] += sums.double()
        can_learn |= loss.requires_grad
        last = number == len(work.passes)
        if last:
            # 3. Before the last backward pass, sum over processes, so that all agree on skipping and stopping.
            total[-1] = float(wish.wanted)
            total = engine.sum(total).cpu()
            metrics = module.means(total[:-1], factors, work.counts)
            skip = guard.refuses(metrics["loss"])
        # DeepSpeed skips a step only if its gradients are not finite.
        engine.backward(loss * math.nan if skip else loss, last)
    if not can_learn:
        _note_idle(config, idle, work.tasks)

    # 4. Update the parameters.
    norm = engine.step(skip)
    if skip or not math.isfinite(norm):
        guard.left_out(step, metrics["loss"], norm, work.rows)
    else:
        guard.took(metrics["loss"])

    # 5. Leave out values that are not finite: the log is JSON, which has no NaN.
    metrics |= {"learning_rate": rate, "grad_norm": norm, "skipped": float(guard.skipped), "padding": work.padding}
    metrics["positions_per_s"] = work.positions / (time.perf_counter() - begin)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}, bool(total[-1])


def _note_idle(config: StageConfig, idle: set[int], tasks: Sequence[int]) -> None:
    """Remember tasks whose loss doesn't depend on any trained part; ConfigError if no task of the stage does."""
    idle.update(tasks)
    if len(idle) == len(config.tasks):
        raise ConfigError(
            f"stage '{config.name}' trains {', '.join(config.train)}, but none of its tasks uses them "
            f"(tasks: {', '.join(config.tasks)})",
            "add a task that uses them, or train other parts",
        )


def _lost_peer(error: RuntimeError) -> Exception:
    """Return an error that explains the loss of another process; return any other error as it is."""
    text = str(error)
    if not any(sign in text for sign in ("Connection closed by peer", "Connection reset", "NCCL", "Timed out waiting")):
        return error
    return AnytalkError(
        "another process of this job has ended; its own message says why (out of memory? killed?)",
        "start the same command again: it resumes from the last checkpoint",
    )
