"""Grids for input adapters that hear fewer columns than were planned for them.

A grid is laid out before its speech runs through the adapter, with as many columns as that may need. What is left over
is taken out here, so that the backbone sees the same columns as when it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from anytalk.data.batches import Batch


def take_out(batch: Batch, planned: Sequence[int], heard: Sequence[int]) -> Batch:
    """Take the columns out of each spoken turn that nothing was heard for; later columns move forward.

    Args:
        batch: Grids with the planned columns.
        planned: Columns of each clip in the grids.
        heard: Columns of each clip that are needed; never more.
    """
    if list(planned) == list(heard):
        return batch
    kept = torch.ones(batch.answer_mask.shape, dtype=torch.bool, device=batch.tokens.device)
    for row, spans in enumerate(batch.speech):
        for start, clip in spans:
            kept[row, start + heard[clip] : start + planned[clip]] = False
    speech = [[(int(kept[row, :start].sum()), clip) for start, clip in spans] for row, spans in enumerate(batch.speech)]
    # Columns that are left out are all pads: at the end they are padding like any other.
    order = (~kept).long().argsort(dim=1, stable=True)[:, : int(kept.sum(dim=1).max())]
    by_stream = order[:, None].expand(-1, batch.tokens.shape[1], -1)
    return replace(
        batch,
        tokens=batch.tokens.gather(2, by_stream),
        loss_mask=batch.loss_mask.gather(2, by_stream),
        answer_mask=batch.answer_mask.gather(1, order),
        speech=speech,
    )
