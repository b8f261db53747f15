"""Prepare a stage: freeze parts, open the data, make the engine and read the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anytalk.data.batches import Batch, Steps, StepSettings
from anytalk.data.examples import Progress
from anytalk.data.feeds import remembered
from anytalk.data.opening import TrainingData
from anytalk.errors import ConfigError, TalkerError
from anytalk.grid.tasks import Task, find_task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Backbone, Loss, SpeechEncoder
from anytalk.train.board import Board
from anytalk.train.checkpoint import StageState, load_checkpoint, remove_checkpoint
from anytalk.train.config import StageConfig, checkpoint_folder
from anytalk.train.engine import Engine, PlainEngine, make_accelerator
from anytalk.train.freeze import PartReport, apply_freeze, without_encoder
from anytalk.train.guard import LossGuard
from anytalk.train.held_out import HeldOut
from anytalk.train.losses import LossModule, choose_losses, hear
from anytalk.train.optimizer import make_optimizer

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class TrainingWatcher:
    """Holds functions that are called during training, on the main process; all are optional."""

    # Called before step 1, when the stage's parts are frozen and counted.
    plan: Callable[[StageConfig, list[PartReport]], None] = field(default=lambda stage, report: None)
    data: Progress = field(default=lambda done, total: None)  # called with rows encoded and their total
    # Called for each logged step, with the steps done and metrics.
    step: Callable[[StageConfig, int, dict[str, float]], None] = field(default=lambda stage, step, metrics: None)
    # Called if a stage resumes from a checkpoint at this step.
    resumed: Callable[[StageConfig, int], None] = field(default=lambda stage, step: None)
    # Called with a sentence for the user, e.g. that a stage has stopped learning.
    notice: Callable[[StageConfig, str], None] = field(default=lambda stage, text: None)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Holds settings that depend on the machine and therefore don't belong in a recipe."""

    precision: str = "no"  # `"no"` (float32), `"bf16"` or `"fp16"`
    # DeepSpeed's configuration (`anytalk.train.deepspeed_engine.read_deepspeed`), if it is used.
    deepspeed: dict[str, Any] | None = None
    workers: int = 0  # processes that lay out batches ahead of time; 0: the loop does it
    restart: bool = False  # ignore checkpoints and train finished stages again
    held_out: TrainingData | None = None  # rows that losses are measured on but that don't train
    held_out_every: int = 100  # steps between two held-out measurements


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Holds what :func:`anytalk.train.loop.run` needs to train a stage."""

    config: StageConfig
    talker: Talker  # the talker with all its parts
    folder: Path  # the talker's folder
    module: LossModule  # the losses as a function of a batch; without a frozen encoder
    engine: Engine  # runs the module
    steps: Steps  # the batches of each step
    held_out: HeldOut | None  # measures losses on held-out rows
    board: Board | None  # TensorBoard files; None except on the main process
    guard: LossGuard  # refuses bad steps
    state: StageState  # the initial state, or that of a checkpoint

    @property
    def checkpoint(self) -> Path:
        return checkpoint_folder(self.folder, self.config.name)

    @property
    def ears(self) -> SpeechEncoder | None:
        """Return the encoder if it is frozen and therefore outside the module."""
        return self.talker.model.encoder if self.module.model.encoder is None else None

    def tell(self, hook: str, **values: Any) -> None:
        """Call the observers that plugins register."""
        self.talker.registry.plugins.tell(hook, stage=self.config.name, **values)

    def ready(self, batch: Batch) -> Batch:
        """Move a batch to the device and, if it holds sound, run a frozen encoder on it."""
        batch = batch.to(self.talker.device)
        return batch if self.ears is None else hear(self.ears, batch)


def prepare_stage(
    talker: Talker,
    config: StageConfig,
    data: TrainingData,
    settings: RunSettings,
    watcher: TrainingWatcher,
    tasks: Sequence[Task],
    waves: bool,
) -> Stage:
    """Prepare a stage; every process must call this.

    Args:
        tasks: All tasks of the job, for which the data is opened once.
        waves: Whether any stage of the job trains the encoder, so that sound has to be kept.

    Raises:
        ConfigError: unknown parts, tasks or losses.
        DataError: a row without a field that its task needs.
        TalkerError: the talker has no folder, or a checkpoint doesn't fit.
    """
    folder = saved_folder(talker)
    # 1. Freeze the parts.
    accelerator = make_accelerator(settings.precision, talker.device == "cpu")
    report = apply_freeze(talker.model, config.train, config.lora)
    _check_streams(talker, config)
    if accelerator.is_main_process:
        watcher.plan(config, report)
        counts = {part.name: {"trainable": part.trainable, "total": part.total} for part in report}
        talker.registry.plugins.tell("stage_started", stage=config.name, report=counts)

    # 2. Choose the losses. The engine gets no frozen encoder, because it would wrap and shard it for nothing.
    model = talker.model if "encoder" in config.parts else without_encoder(talker.model)
    losses = choose_losses(talker, config, model)

    # 3. Open the data.
    progress = watcher.data if accelerator.is_main_process else None
    feeds = data.feeds(talker, tasks, waves=waves, progress=progress)
    step_settings = _step_settings(talker, config, waves, accelerator, list(losses))

    steps = Steps(talker, feeds, step_settings)
    held_out = None
    if settings.held_out is not None:
        others = settings.held_out.feeds(talker, tasks, waves=waves)
        held_out = HeldOut(talker, others, step_settings, settings.held_out_every)

    # 4. Make the engine.
    own = [find_task(name) for name in config.tasks]
    module = LossModule(
        model,
        losses,
        listens=any(task.speech_in for task in own),
        speaks=any(task.audio_out for task in own),
        uniform=settings.deepspeed is not None,  # on one device too: offload drops gradients not used in the last pass
        share_prefix=not config.gradient_checkpointing,
    )
    optimizer = make_optimizer(module.model, config, fused=settings.deepspeed is None)
    engine = make_engine(accelerator, module, optimizer, config.clip_norm, settings.deepspeed)

    # 5. Load the checkpoint.
    checkpoint = checkpoint_folder(folder, config.name)
    if settings.restart:
        if engine.is_main:
            remove_checkpoint(checkpoint)
        engine.wait()
    rows = remembered(feeds, config.tasks)
    fresh = StageState(config.model_dump(mode="json"), rows)
    found = load_checkpoint(checkpoint, fresh, engine)
    if found is not None and engine.is_main:
        watcher.resumed(config, found.step)
    state = found or fresh

    # 6. Open the files that show the training.
    board = None
    if engine.is_main:
        place = folder / "history" / "tensorboard" / config.name
        board = Board(place, state.step, lambda text: watcher.notice(config, text))
        board.grid(talker, *(steps.first_row() if held_out is None else held_out.rows[0]))
    return Stage(
        config=config,
        talker=talker,
        folder=folder,
        module=module,
        engine=engine,
        steps=steps,
        held_out=held_out,
        board=board,
        guard=LossGuard(config, state.mean_loss, state.skipped),
        state=state,
    )


def make_engine(
    accelerator: Accelerator,
    module: LossModule,
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
    deepspeed: dict[str, Any] | None = None,
) -> Engine:
    """Make the engine of a stage: DeepSpeed's if there is a configuration, else the plain one."""
    if deepspeed is None:
        return PlainEngine(accelerator, module, optimizer, clip_norm)
    from anytalk.train.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(accelerator, module, optimizer, clip_norm, deepspeed)


@contextmanager
def recomputing(backbone: Backbone, config: StageConfig) -> Iterator[None]:
    """Let the backbone recompute activations in the backward pass, if the stage asks for it."""
    if config.gradient_checkpointing:
        backbone.checkpoint_activations(True)
    try:
        yield
    finally:
        if config.gradient_checkpointing:
            backbone.checkpoint_activations(False)


def saved_folder(talker: Talker) -> Path:
    """Return the folder of a talker; TalkerError if it was never saved."""
    if talker.folder is None:
        raise TalkerError("a talker must be saved before it is trained", "attach it to a folder first")
    return talker.folder


def _check_streams(talker: Talker, config: StageConfig) -> None:
    streams = talker.model.layout.num_audio_streams
    if config.stream_weights is not None and len(config.stream_weights) != streams:
        raise ConfigError(
            f"stage '{config.name}' has {len(config.stream_weights)} stream_weights, the talker {streams} streams",
            "give one weight per stream, or leave stream_weights out",
        )


def _step_settings(
    talker: Talker, config: StageConfig, waves: bool, accelerator: Accelerator, losses: Sequence[Loss]
) -> StepSettings:
    weights = talker.config.weights
    return StepSettings(
        tasks=config.tasks,
        batch_size=config.batch_size,
        max_positions=config.max_positions,
        max_padding=config.max_padding,
        learn_pads=config.learn_pads,
        losses=losses,
        waves="encoder" in config.parts or (waves and weights is not None and "encoder" in weights.parts),
        seed=config.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
