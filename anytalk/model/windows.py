"""Cuts answers out of their prompts, to train a speech decoder on them.

A window begins at the prompt's last column and ends with the answer. The rows of a batch have prompts of different
lengths, so each row is shifted to the left by its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anytalk.plugins.contracts import Layout


@dataclass(frozen=True)
class Windows:
    """Holds the answers of the rows that speak, padded on the right."""

    rows: Tensor  # (R,) indices of these rows in the batch
    columns: Tensor  # (R,W) int64, indices of their columns in the batch, clamped to its last column
    tokens: Tensor  # (R,S,W) int64; the first column is the prompt's last
    loss_mask: Tensor  # (R,S,W) bool

    def gather(self, values: Tensor) -> Tensor:
        """Cut values (B,T,D) of the whole batch to the windows, (R,W,D)."""
        return values[self.rows[:, None], self.columns]


def answer_windows(layout: Layout, tokens: Tensor, loss_mask: Tensor, answer_mask: Tensor) -> Windows:
    """Cut the spoken answers out of a batch; if there are none, return a window of the first row that has no loss.

    Args:
        tokens: (B,S,T) int64.
        loss_mask: (B,S,T) bool.
        answer_mask: (B,T) bool, True in columns of spoken answers.
    """
    rows = answer_mask.any(dim=1).nonzero()[:, 0]
    if not len(rows):  # the decoder must run in every pass: sharded engines deadlock otherwise
        rows = torch.zeros(1, dtype=torch.int64, device=tokens.device)
    speaking = answer_mask[rows].long()
    first = (speaking.argmax(dim=1) - 1).clamp(min=0)  # the prompt's last column
    lengths = speaking.sum(dim=1) + 1
    width = max(2, int(lengths.max()))  # one column would leave nothing to predict
    # Indices past the batch's end are clamped; all columns after an answer's end become pads below.
    offsets = torch.arange(width, device=tokens.device)
    beyond = offsets[None] >= lengths[:, None]
    columns = (first[:, None] + offsets[None]).clamp(max=tokens.shape[2] - 1)
    index = columns[:, None, :].expand(-1, tokens.shape[1], -1)
    cut = tokens[rows].gather(2, index).masked_fill(beyond[:, None], layout.pad_a)
    text = cut[:, layout.text_row].masked_fill(beyond, layout.pad_t)
    # The prompt's last token isn't part of the answer, so the decoder must not speak it.
    text[:, 0] = layout.pad_t
    cut = torch.cat([cut[:, : layout.text_row], text[:, None]], dim=1)
    mask = loss_mask[rows].gather(2, index) & ~beyond[:, None]
    return Windows(rows, columns, cut, mask)
