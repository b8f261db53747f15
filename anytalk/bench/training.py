"""Measures how much longer a training step takes than its bare arithmetic, for the paper's stages 1 to 3.

Two things alternate step by step in one run, on the same tokens. One is the training loop: laying out batches,
embedding tables, losses, clipping, guards, logging. The other is the floor: input adapter, backbone with its own word
embeddings, output adapter and heads as plain modules on ready-made tensors of the same shapes, with forward pass,
cross-entropy, backward pass and the same optimizer. The result is the median of the ratios of single steps, which other
work on the machine hardly affects.

The floor computes each row whole. The loop may compute a prefix that all rows share only once (`train/prefix.py`), so
it can be faster than the floor.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from anytalk.data.batches import Batch, Steps, StepSettings
from anytalk.data.examples import Clip, Example
from anytalk.data.feeds import Feed, ListFeed
from anytalk.data.mixing import padding_share
from anytalk.data.opening import TrainingData
from anytalk.grid.tasks import Task
from anytalk.model.attach import attach
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import AudioTables
from anytalk.plugins.registry import default_registry
from anytalk.train.config import StageConfig, find_recipe
from anytalk.train.freeze import apply_freeze
from anytalk.train.loop import RunSettings, TrainingWatcher, train_stage
from anytalk.train.optimizer import make_optimizer

SYSTEM = "You are a voice assistant. Answer with one short sentence."
STAGES = ("alignment", "adaption", "multimodal")
WARM_UP = 2
ENCODER_WIDTH = 384


class Ready(TrainingData):
    """Provides examples as numbers: what a frozen encoder and a codec compute is ready before the first step."""

    def __init__(self, examples: Sequence[Example]) -> None:
        super().__init__(rows=[])
        self.feed = ListFeed("bench", examples)

    def feeds(self, talker: Talker, tasks: Sequence[Task], **_: Any) -> list[Feed]:
        return [self.feed]


class Enough(Exception):  # noqa: N818 (not an error)
    """Stops the training after the last measured step, so that nothing is saved."""


def make_talker(folder: Path, model: str | None) -> Path:
    """Attach a language model without ears; None builds random tiny parts."""
    if model is None:
        parts = [
            "backbone.options={}",
            "encoder={name: tiny}",
            "codec={name: tiny}",
            "output_adapter.options.num_blocks=1",
        ]
        attach("tiny", folder, backbone="tiny", assignments=parts)
    else:
        parts = [
            f"encoder={{name: tiny, options: {{width: {ENCODER_WIDTH}}}}}",
            "input_adapter={name: stack}",
            f"grid.system={SYSTEM}",
        ]
        attach(model, folder, assignments=parts)
    return folder


def make_examples(talker: Talker, count: int, seed: int) -> list[Example]:
    """Return rows of many lengths: questions of about 2.5 s at 50 frames/s, answers of about 3 s, ten words each."""
    random = np.random.default_rng(seed)
    grid = talker.config.grid
    words = ["the", "day", "is", "long", "and", "warm", "but", "I", "know", "a", "good", "place", "near", "the", "sea"]
    width = talker.model.encoder_width
    examples = []
    for i in range(count):
        scale = float(np.clip(random.lognormal(0.0, 0.35), 0.4, 2.5))
        frames, spoken = round(125 * scale), round(38 * scale)
        said = [" ".join(random.choice(words, max(2, round(10 * scale)))) for _ in range(2)]
        features = torch.from_numpy(random.standard_normal((frames, width)).astype(np.float32))
        examples.append(
            Example(
                id=f"bench:{i}",
                tasks=("A1A2", "A1T2", "A1T1", "T1A2", "T1T2", "T1A1"),
                question_text=said[0],
                clip=Clip(frames, frames / 50, features),
                answer_text=said[1],
                codes=random.integers(0, grid.codebook_size, (grid.codec_streams, spoken)),
            )
        )
    return examples


def make_stage(name: str, steps: int, rows: int, positions: int) -> StageConfig:
    """Return a stage of the paper, shortened, with batches for this machine."""
    (stage,) = (s for s in find_recipe("paper", default_registry()).stages if s.name == name)
    changes = {"steps": steps + WARM_UP, "batch_size": rows, "max_positions": positions}
    return stage.model_copy(update={**changes, "warmup_steps": 0, "log_every": 1, "checkpoint_every": 10**9})


def make_steps(talker: Talker, stage: StageConfig, examples: Sequence[Example]) -> Steps:
    """Return the batches of a stage's steps, equal to the loop's, because they depend on seed and step only."""
    settings = StepSettings(
        tasks=stage.tasks,
        batch_size=stage.batch_size,
        max_positions=stage.max_positions,
        max_padding=stage.max_padding,
        seed=stage.seed,
    )
    return Steps(talker, [ListFeed("bench", examples)], settings)


class Floor:
    """Runs the arithmetic of a training step: plain modules on ready-made tensors."""

    def __init__(self, talker: Talker, stage: StageConfig) -> None:
        self.model = talker.model
        self.model.encoder = None
        apply_freeze(self.model, stage.train)
        self.optimizer = make_optimizer(self.model, stage)
        fed = [self.model.input_adapter, self.model.audio_embeddings, self.model.special_tokens]
        self.feeds_train = any(p.requires_grad for part in fed if part is not None for p in part.parameters())
        # The floor looks up no embeddings, but the optimizer's work on their tables belongs to the step.
        self.tables = [p for part in fed[1:] if part is not None for p in part.parameters() if p.requires_grad]

    def prepare(self, batch: Batch) -> dict[str, Any]:
        """Return tensors with the shapes of a pass."""
        layout = self.model.layout
        mask, targets = batch.loss_mask[:, :, 1:], batch.tokens[:, :, 1:]
        text, audio = mask[:, layout.text_row], mask[:, : layout.text_row]
        columns = audio.any(dim=1)
        rows, _, steps = batch.tokens.shape
        return {
            "embeds": torch.randn(rows, steps, self.model.backbone.width, requires_grad=self.feeds_train),
            "ids": batch.tokens[:, layout.text_row].clamp(max=layout.text_vocab_size - 1),
            "text": text,
            "text_targets": targets[:, layout.text_row][text],
            "columns": columns,
            "audio_targets": targets[:, : layout.text_row].transpose(0, 1)[:, columns].flatten(),
            "features": batch.features,
            "lengths": batch.lengths,
        }

    def step(self, passes: Sequence[dict[str, Any]]) -> None:
        for ready in passes:
            self._run(ready)
        for table in self.tables:
            if table.grad is None:
                table.grad = torch.zeros_like(table)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _run(self, ready: dict[str, Any]) -> None:
        model = self.model
        outputs: list[torch.Tensor] = []
        if ready["features"] is not None and model.input_adapter is not None:
            outputs.append(model.input_adapter(ready["features"], ready["lengths"]).columns)
        # The embedding of words, and its gradient, is part of the bare backbone.
        states = model.backbone(model.backbone.embed_text(ready["ids"]) + ready["embeds"])
        if bool(ready["text"].any()):
            logits = model.backbone.text_logits(states.normed[:, :-1][ready["text"]])
            outputs.append(F.cross_entropy(logits, ready["text_targets"]))
        if bool(ready["columns"].any()):
            hidden = model.output_adapter(states)[:, :-1][ready["columns"]]
            tables = AudioTables(model.audio_embeddings.weight, model.special_tokens.audio)
            outputs.append(F.cross_entropy(model.heads(hidden[None], tables)[0].flatten(0, 1), ready["audio_targets"]))
        live = [output for output in outputs if output.requires_grad]
        torch.autograd.backward(live, [torch.ones_like(output) for output in live])


def measure_time(folder: Path, stage: StageConfig, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the seconds of each step of the loop, and of the floor right after it."""
    # Two copies, because both train.
    talker, bare = load_talker(folder, with_encoder=False), load_talker(folder, with_encoder=False)
    floor, steps = Floor(bare, stage), make_steps(bare, stage, examples)
    loop_s: list[float] = []
    floor_s: list[float] = []
    padding: list[float] = []
    unsorted: list[float] = []
    positions: list[int] = []
    began = 0.0

    def plan(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def step(_: StageConfig, number: int, metrics: dict[str, float]) -> None:
        nonlocal began
        loop_s.append(time.perf_counter() - began)
        work = steps[number - 1]
        # Outside of the measured time: the floor starts from ready-made tensors.
        passes = [floor.prepare(batch) for batch in work.passes]
        began = time.perf_counter()
        floor.step(passes)
        floor_s.append(time.perf_counter() - began)
        padding.append(metrics["padding"])
        lengths = [int(columns) for batch in work.passes for columns in _columns(bare, batch)]
        unsorted.append(padding_share(lengths, [list(range(len(lengths)))]))
        positions.append(work.positions)
        if number == stage.steps:
            raise Enough
        began = time.perf_counter()

    with suppress(Enough):
        train_stage(talker, stage, Ready(examples), RunSettings(), TrainingWatcher(plan=plan, step=step))
    ratios = [ours / theirs for ours, theirs in zip(loop_s, floor_s, strict=True)][WARM_UP:]
    return {
        "stage": stage.name,
        "loop_s": statistics.median(loop_s[WARM_UP:]),
        "floor_s": statistics.median(floor_s[WARM_UP:]),
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "positions_per_step": statistics.mean(positions[WARM_UP:]),
        "padding": statistics.mean(padding),
        "padding_unsorted": statistics.mean(unsorted),
    }


def cells(figure: dict[str, Any]) -> list[str]:
    """Return a figure of :func:`measure_time` as table cells: stage, positions, both speeds, ratio, range, padding."""
    return [
        figure["stage"],
        f"{figure['positions_per_step']:.0f}",
        f"{1 / figure['loop_s']:.3f}",
        f"{1 / figure['floor_s']:.3f}",
        f"{figure['ratio']:.3f}",
        f"{min(figure['ratios']):.2f} .. {max(figure['ratios']):.2f}",
        f"{figure['padding']:.1%}",
    ]


def _columns(talker: Talker, batch: Batch) -> torch.Tensor:
    """Return (B,) how many columns each row has without padding: up to its last column that isn't all pads."""
    layout = talker.model.layout
    empty = (batch.tokens[:, layout.text_row] == layout.pad_t) & (
        batch.tokens[:, : layout.text_row] == layout.pad_a
    ).all(1)
    counted = torch.arange(1, batch.tokens.shape[2] + 1) * ~empty
    return counted.max(dim=1).values
