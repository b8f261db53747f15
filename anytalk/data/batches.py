"""Batches: which examples and tasks make up a step (a pure function of the step), and their collation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anytalk.data.examples import Example
from anytalk.grid.prompts import TrainingGrid
from anytalk.grid.tokens import StreamLayout


@dataclass
class Batch:
    """Grids of one step, right-padded.

    Attributes:
        tokens: (B,S,T) int64.
        loss_mask: (B,S,T) bool.
        speech_starts: First speech column of each row; -1 without speech.
        features: (B',F,E) encoder features of the rows with speech, or None.
        waves: (B',N) their sound instead, when the encoder is trained, or None.
        lengths: (B',) frames, or samples where there are waves.
        answer_mask: (B,T) bool, columns of a spoken answer: a written one has no voice when it is generated either.
        speaker: (B,) voice of each row.
    """

    tokens: Tensor
    loss_mask: Tensor
    speech_starts: list[int]
    features: Tensor | None
    waves: Tensor | None
    lengths: Tensor | None
    answer_mask: Tensor
    speaker: Tensor


def batch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> list[int]:
    """Which examples stand in a step's batch.

    Every epoch is a permutation of its own, seeded by (seed, epoch): a run that is resumed at a step sees exactly what
    it would have seen without the interruption, and no state has to be saved.
    """
    first = step * batch_size
    chosen = []
    for position in range(first, first + batch_size):
        epoch, place = divmod(position, num_examples)
        order = np.random.default_rng((seed, epoch)).permutation(num_examples)
        chosen.append(int(order[place]))
    return chosen


def batch_tasks(seed: int, step: int, batch_size: int, weights: Sequence[float]) -> list[int]:
    """Which task each row of a step's batch gets, drawn by weight: tasks are mixed within a batch."""
    probabilities = np.asarray(weights, dtype=np.float64)
    generator = np.random.default_rng((seed, 7919, step))
    return [int(t) for t in generator.choice(len(weights), size=batch_size, p=probabilities / probabilities.sum())]


def collate(
    layout: StreamLayout, items: Sequence[tuple[Example, TrainingGrid]], speakers: Sequence[str], device: str
) -> Batch:
    """Pad grids, features and waves to rectangles. Causality makes right padding invisible to what counts."""
    steps = max(grid.tokens.shape[1] for _, grid in items)
    tokens = np.full((len(items), layout.num_streams, steps), layout.pad_a, dtype=np.int64)
    tokens[:, layout.text_row] = layout.pad_t
    loss_mask = np.zeros(tokens.shape, dtype=bool)
    answer_mask = np.zeros((len(items), steps), dtype=bool)
    for i, (_, grid) in enumerate(items):
        width = grid.tokens.shape[1]
        tokens[i, :, :width] = grid.tokens
        loss_mask[i, :, :width] = grid.loss_mask
        answer_mask[i, grid.num_prompt : width] = grid.loss_mask[: layout.text_row].any()
    spoken = [example for example, grid in items if grid.speech_spans]
    features, lengths = _pad([e.features for e in spoken if e.features is not None])
    waves, samples = _pad([e.wave for e in spoken if e.wave is not None])
    voices = [speakers.index(e.row.speaker) if e.row.speaker in speakers else 0 for e, _ in items]
    return Batch(
        tokens=torch.from_numpy(tokens).to(device),
        loss_mask=torch.from_numpy(loss_mask).to(device),
        speech_starts=[grid.speech_spans[0][0] if grid.speech_spans else -1 for _, grid in items],
        features=None if features is None else features.to(device),
        waves=None if waves is None else waves.to(device),
        lengths=None if features is None and waves is None else (lengths if waves is None else samples).to(device),
        answer_mask=torch.from_numpy(answer_mask).to(device),
        speaker=torch.tensor(voices, device=device),
    )


def _pad(items: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
    lengths = torch.tensor([len(item) for item in items], dtype=torch.int64)
    if not items:
        return None, lengths
    return torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True), lengths
