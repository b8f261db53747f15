"""What the tests of the training core share: rows of unlike length, one step's batches, its loss, its gradients."""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import make_examples, moved_parts, snapshot, stage, training_rows
from torch.nn import functional as F

from anytalk.data.batches import Step, Steps, StepSettings
from anytalk.data.examples import Example, make_grid
from anytalk.data.feeds import ListFeed
from anytalk.grid.tasks import TASKS, Task
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import Backbone, GridBatch, Loss, Row
from anytalk.train.config import StageConfig
from anytalk.train.loop import TrainingWatcher
from anytalk.train.losses import LossModule, choose_losses, hear

SHAPES = [(3, 0.2, "ab"), (6, 0.35, "longer"), (4, 0.25, "abc"), (9, 0.5, "a much longer answer")]
"""Frames of the answer, seconds of the question, text of the answer."""


def mixed_rows(folder: Path) -> list[Row]:
    """Rows that differ in length everywhere."""
    rows = []
    for i, (frames, question_s, text) in enumerate(SHAPES):
        own = folder / f"row{i}"
        own.mkdir()
        (row,) = training_rows(own, 1, num_frames=frames, question_s=question_s)
        rows.append(replace(row, id=f"row{i}", question_text=f"question {i}?", answer_text=text))
    return rows


def losses_of(
    talker: Talker, weights: Mapping[str, float] | None = None, teacher: Backbone | None = None, **settings: Any
) -> dict[Loss, float]:
    """Losses by name; text and audio where none are named."""
    return choose_losses(
        talker, stage(losses=dict(weights or {"text": 1.0, "audio": 1.0}), **settings), teacher=teacher
    )


def steps_of(talker: Talker, examples: Sequence[Example], tasks: Mapping[str, float], **settings: Any) -> Steps:
    """The steps of a stage on examples."""
    defaults = {"batch_size": 2 * len(examples), "max_positions": 8192, "max_padding": 0.99}
    settings["losses"] = list(settings.get("losses") or losses_of(talker))
    chosen = StepSettings(tasks=tasks, **{**defaults, **settings})
    return Steps(talker, [ListFeed("rows", examples)], chosen)


def first_step(talker: Talker, rows: Sequence[Row], tasks: Mapping[str, float], **settings: Any) -> Step:
    """The first step's work."""
    found = [TASKS[name] for name in tasks]
    return steps_of(talker, make_examples(talker, rows, found, settings.get("waves", False)), tasks, **settings)[0]


def run_step(
    talker: Talker, step: Step, losses: Mapping[Loss, float] | None = None, **how: Any
) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    """All passes of a step: the loss, the mean of each named sum that has tokens, and every gradient that isn't 0."""
    model = talker.model
    module = LossModule(model, losses_of(talker) if losses is None else losses, **how)
    factors = module.factors(step.counts)
    total, sums = 0.0, torch.zeros(len(module.names), dtype=torch.float64)
    model.zero_grad()
    encoder = model.encoder
    for batch in step.passes:
        if encoder is not None and batch.waves is not None and not any(p.requires_grad for p in encoder.parameters()):
            batch = hear(encoder, batch)
        loss, found = module(batch, factors)
        if loss.requires_grad:
            loss.backward()
        total += float(loss.detach())
        sums += found.double()
    named = dict(zip(module.names, sums.tolist(), strict=True))
    return total, {n: v / step.counts[n] for n, v in named.items() if step.counts.get(n)}, gradients(model)


def gradients(model: TalkModel) -> dict[str, torch.Tensor]:
    """Gradients that aren't 0, by parameter name."""
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: gradient for name, gradient in found.items() if bool(gradient.any())}


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 2e-5) -> None:
    """The same gradients, to `tolerance` of the largest entry of each."""
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert (gradient - other[name]).abs().max() <= tolerance * gradient.abs().max(), name


def by_hand(
    talker: Talker, items: Sequence[tuple[Example, Task]], weights: Mapping[str, float]
) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    """What :func:`run_step` returns, token by token, one row at a time, each row whole and without padding.

    Args:
        talker: Whose model.
        items: Examples and tasks of the step.
        weights: Of ``text``, ``audio0``, ``audio1`` ...: what each mean counts in the loss.
    """
    model, layout = talker.model, talker.model.layout
    model.zero_grad()
    losses: dict[str, list[torch.Tensor]] = {}
    for example, task in items:
        grid = make_grid(talker, example, task)
        tokens = torch.from_numpy(grid.tokens)[None]
        spans = []
        for (start, width), clip in zip(grid.speech_spans, example.clips(task), strict=True):
            features, frames = clip.features, torch.tensor([clip.num_frames])
            if features is None or any(p.requires_grad for p in model.encoder.parameters()):
                features, frames = model.encode_speech(clip.wave[None], torch.tensor([len(clip.wave)]))
                features = features[0]
            embeds, columns, _ = model.adapt_speech(features[None], frames)
            assert int(columns) == width
            spans.append((start, embeds[0, :width]))
        speakers = talker.config.speakers
        voice = torch.tensor([speakers.index(example.speaker or speakers[0])]) if speakers else None
        mask = torch.arange(tokens.shape[2])[None] >= grid.num_prompt if task.audio_out else None
        states = model.backbone(model.embed(GridBatch(tokens, [spans], voice, mask)).backbone)
        text_logits = model.text_logits(states.normed)[0]
        audio_logits = model.audio_logits(model.output_adapter(states))[0]
        for row, column in np.argwhere(grid.loss_mask).tolist():
            is_text = row == layout.text_row
            logits = text_logits[column - 1] if is_text else audio_logits[row, column - 1]
            name = "text" if is_text else f"audio{row}"
            losses.setdefault(name, []).append(F.cross_entropy(logits.float(), tokens[0, row, column]))
    means = {name: torch.stack(values).mean() for name, values in losses.items()}
    total = sum((weights[name] * value for name, value in means.items()), torch.zeros(()))
    total.backward()
    return float(total.detach()), {n: float(v.detach()) for n, v in means.items()}, gradients(model)


def items_of(talker: Talker, step: Step, examples: Sequence[Example], tasks: Sequence[str]) -> list[Any]:
    """Example and task of each row of a step."""
    named = {example.id: example for example in examples}
    return [(named[row], TASKS[tasks[task]]) for row, task in zip(step.rows, step.tasks, strict=True)]


def interrupted_after(steps: int, resumed: list[int] | None = None) -> TrainingWatcher:
    """Press Ctrl-C after so many logged steps; `resumed` gets the step that the run went on from."""
    seen: list[int] = []

    def step(_: StageConfig, number: int, metrics: dict[str, float]) -> None:
        seen.append(number)
        if len(seen) == steps:
            os.kill(os.getpid(), signal.SIGINT)

    return TrainingWatcher(step=step, resumed=lambda _, first: None if resumed is None else resumed.append(first))


TIMES = ("positions_per_s", "data_share")
"""Entries of a log line that depend on the machine's mood."""


def log_of(folder: Path, name: str = "short") -> list[dict[str, float]]:
    """A stage's log without what depends on the machine's mood."""
    lines = (folder / "history" / f"{name}.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same_run(folder: Path, straight: Talker) -> None:
    """Whether a talker that was stopped on the way is bit for bit the one that was trained in one go."""
    assert straight.folder is not None
    talker = load_talker(folder)
    assert moved_parts(snapshot(straight.model), talker.model) == set()
    assert log_of(folder) == log_of(straight.folder)
    first, second = talker.config.history, straight.config.history
    assert [r.model_dump(exclude={"seconds"}) for r in first] == [r.model_dump(exclude={"seconds"}) for r in second]
    assert not list((folder / "history").glob("*.checkpoint"))
    assert not list((folder / "history").glob(".*"))
