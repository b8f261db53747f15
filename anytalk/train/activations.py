"""Measure the memory of activations on two small passes and extrapolate it to large ones."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anytalk.data.batches import Batch, Steps, StepSettings
from anytalk.data.examples import Clip, Example
from anytalk.data.feeds import ListFeed
from anytalk.grid.tasks import Task
from anytalk.model.talker import Talker
from anytalk.train.config import StageConfig
from anytalk.train.freeze import without_encoder
from anytalk.train.losses import LossModule, choose_losses
from anytalk.train.memory import peak
from anytalk.train.stage import recomputing

_QUESTION_FRAMES = 100
_ANSWER_FRAMES = 40
_WORDS = 8
"""Lengths of short turns: question (2 s at 50 Hz), answer (3 s at 12.5 Hz) and text; their proportions matter."""

_ROWS = 2
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that were made while it is active and are still alive.

    Attributes:
        moments: Bytes alive after each new tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moments: list[int] = []
        self._held = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the tensors that it made."""
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage(), given)
        return made

    def _see(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, num_bytes = id(storage), storage.nbytes()
        if key in self._known or key in given:  # a view, or the result of an in-place operation
            return

        # Called when the storage is freed.
        def freed(_: object) -> None:
            self._held -= num_bytes
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self._held += num_bytes
        self.moments.append(self._held)


def measure_activations(talker: Talker, stage: StageConfig, tasks: Sequence[Task], precision: str = "no") -> int:
    """Return the most bytes, besides parameters and gradients, of a pass of `max_positions` over a stage's tasks.

    Each task runs forward and backward on two small passes of made-up rows. Other devices, such as GPUs, may need more
    or less than the one that this runs on.

    Args:
        talker: A talker with the stage's freezing applied.
        precision: ``"no"``, ``"bf16"`` or ``"fp16"``; sets autocast as the training loop does.
    """
    model, backbone = talker.model, talker.model.backbone
    # The backbone takes the teacher's place: the parent has the same shapes, and loading it would take memory.
    if "encoder" not in stage.parts:
        model = without_encoder(model)
    module = LossModule(
        model, choose_losses(talker, stage, model, backbone), share_prefix=not stage.gradient_checkpointing
    )
    with recomputing(backbone, stage):
        return max(_task_peak(talker, module, stage, task, precision) for task in tasks)


def _task_peak(talker: Talker, module: LossModule, stage: StageConfig, task: Task, precision: str) -> int:
    runs = []
    for scale in (1, 2):
        batch = _batch(talker, module, stage, task, scale).to(talker.device)
        runs.append((batch.tokens[:, 0].numel(), _moments(module, batch, precision, talker.device)))
    return peak(runs[0], runs[1], max(stage.max_positions, runs[1][0]))


def _moments(module: LossModule, batch: Batch, precision: str, device: str) -> list[int]:
    """Return the bytes alive at each moment of a forward and a backward pass, without the parameters' gradients."""

    # The plan counts gradients separately.
    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    trainable = [p for p in module.model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(drop) for p in trainable]  # type: ignore[no-untyped-call]
    kind = torch.device(device).type
    autocast = torch.autocast(kind, _DTYPES[precision]) if precision in _DTYPES else nullcontext()
    factors = torch.ones(len(module.names), dtype=torch.float64)
    try:
        with torch.random.fork_rng(), LiveBytes() as live:
            with autocast:
                loss, _ = module(batch, factors)
            if loss.requires_grad:
                loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    moments: list[int] = live.moments
    return moments


def _batch(talker: Talker, module: LossModule, stage: StageConfig, task: Task, scale: int) -> Batch:
    """Make up rows of a task as one pass; `scale` multiplies their length."""
    waves = "encoder" in stage.parts
    feed = ListFeed("plan", [_example(talker, task, i, scale, waves) for i in range(_ROWS)])
    settings = StepSettings(
        tasks={task.name: 1.0},
        batch_size=_ROWS,
        # Without limits, so that all rows fit one pass.
        max_positions=2**40,
        max_padding=0.9,
        losses=list(module.losses),
        waves=waves,
    )
    return Steps(talker, [feed], settings)[0].passes[0]


def _example(talker: Talker, task: Task, row: int, scale: int, waves: bool) -> Example:
    model, grid = talker.model, talker.config.grid
    random = np.random.default_rng(row)
    clip = codes = None
    if task.speech_in:
        frames, wave = scale * _QUESTION_FRAMES, None
        if waves and model.encoder is not None:
            num_samples = round(frames / model.encoder.frame_rate_hz * model.encoder.sample_rate_hz)
            wave = torch.from_numpy(random.normal(0, 0.1, num_samples)).float()
            frames = model.encoder.output_length(num_samples)
        clip = Clip(frames, 0.0, torch.zeros(frames, model.encoder_width), wave)
    if task.audio_out:
        codes = random.integers(0, grid.codebook_size, (grid.codec_streams, scale * _ANSWER_FRAMES))
    # Texts that begin alike would share more columns than real rows do.
    words = " ".join([str(row), *["word"] * (scale * _WORDS)])
    return Example(id=f"plan:{row}", tasks=(task.name,), question_text=words, clip=clip, answer_text=words, codes=codes)
