"""A stage made ready: parts frozen, data open, engine made, checkpoint read."""

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
    """Functions called while training, on the main process; each may be left as it is."""

    # A stage's parts are frozen and counted, before step 1.
    plan: Callable[[StageConfig, list[PartReport]], None] = field(default=lambda stage, report: None)
    data: Progress = field(default=lambda done, total: None)  # rows encoded so far, of how many
    # A step was logged: stage, steps done, metrics.
    step: Callable[[StageConfig, int, dict[str, float]], None] = field(default=lambda stage, step, metrics: None)
    # A stage goes on from a checkpoint at this step.
    resumed: Callable[[StageConfig, int], None] = field(default=lambda stage, step: None)
    # A sentence for the user, such as that a stage has stopped learning.
    notice: Callable[[StageConfig, str], None] = field(default=lambda stage, text: None)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a job runs: what a recipe doesn't say, because it depends on the machine."""

    precision: str = "no"  # `"no"` (float32), `"bf16"` or `"fp16"`
    # DeepSpeed's configuration (`anytalk.train.deepspeed_engine.read_deepspeed`), or None.
    deepspeed: dict[str, Any] | None = None
    workers: int = 0  # processes that lay out batches ahead of time; 0: none beside the loop's own
    restart: bool = False  # forget checkpoints and train finished stages again
    held_out: TrainingData | None = None  # rows that the losses are also measured on, and nothing is learned from
    held_out_every: int = 100  # steps between two such measurements


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What :func:`anytalk.train.loop.run` needs to train a stage."""

    config: StageConfig  # what moves, on what, for how long
    talker: Talker  # the talker that is trained, whole
    folder: Path  # its folder
    module: LossModule  # the losses as a function of a batch; without the encoder, unless that trains
    engine: Engine  # runs the module
    steps: Steps  # the work of each step
    held_out: HeldOut | None  # rows that the losses are also measured on
    board: Board | None  # TensorBoard files; on the main process
    guard: LossGuard  # refuses bad steps
    state: StageState  # the state of the stage: at its beginning, or at a checkpoint

    @property
    def checkpoint(self) -> Path:
        return checkpoint_folder(self.folder, self.config.name)

    @property
    def ears(self) -> SpeechEncoder | None:
        """The encoder, where it stays outside of the module because it is frozen."""
        return self.talker.model.encoder if self.module.model.encoder is None else None

    def tell(self, hook: str, **values: Any) -> None:
        """Tell the observers, which plugins register."""
        self.talker.registry.plugins.tell(hook, stage=self.config.name, **values)

    def ready(self, batch: Batch) -> Batch:
        """Bring a batch to the device, and let a frozen encoder hear what is sound in it."""
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
    """Make a stage ready to run; called on every process.

    Args:
        tasks: Tasks that the data is opened for: those of the whole job.
        waves: Whether a stage of the job trains the encoder, so that sound is kept.

    Raises:
        ConfigError: unknown parts, tasks or losses.
        DataError: a row without what a task needs.
        TalkerError: a talker without a folder, or a checkpoint that doesn't fit.
    """
    folder = saved_folder(talker)
    # 1. Freeze.
    accelerator = make_accelerator(settings.precision, talker.device == "cpu")
    report = apply_freeze(talker.model, config.train, config.lora)
    _check_streams(talker, config)
    if accelerator.is_main_process:
        watcher.plan(config, report)
        counts = {part.name: {"trainable": part.trainable, "total": part.total} for part in report}
        talker.registry.plugins.tell("stage_started", stage=config.name, report=counts)

    # 2. Choose the losses. Engines wrap and shard what they see, and a frozen encoder needs neither.
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

    # 4. The engine.
    own = [find_task(name) for name in config.tasks]
    module = LossModule(
        model,
        losses,
        listens=any(task.speech_in for task in own),
        speaks=any(task.audio_out for task in own),
        uniform=settings.deepspeed is not None,  # on one device too: offload forgets what a last pass didn't use
        share_prefix=not config.gradient_checkpointing,
    )
    optimizer = make_optimizer(module.model, config, fused=settings.deepspeed is None)
    engine = make_engine(accelerator, module, optimizer, config.clip_norm, settings.deepspeed)

    # 5. The checkpoint.
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

    # 6. What is shown while it trains.
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
    """Make the engine of a stage: the plain one where there is no DeepSpeed configuration."""
    if deepspeed is None:
        return PlainEngine(accelerator, module, optimizer, clip_norm)
    from anytalk.train.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(accelerator, module, optimizer, clip_norm, deepspeed)


@contextmanager
def recomputing(backbone: Backbone, config: StageConfig) -> Iterator[None]:
    """Let a backbone compute activations twice instead of keeping them, where the stage asks for it."""
    if config.gradient_checkpointing:
        backbone.checkpoint_activations(True)
    try:
        yield
    finally:
        if config.gradient_checkpointing:
            backbone.checkpoint_activations(False)


def saved_folder(talker: Talker) -> Path:
    """Return where a talker lies; TalkerError for one that was never saved."""
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
