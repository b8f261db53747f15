"""Remove grid columns that an elastic input adapter didn't use.

A grid is laid out before its speech runs through the adapter, with as many columns as the speech may need. Unused
columns are removed here, so that the backbone sees the same columns as in generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from anytalk.data.batches import Batch


def take_out(batch: Batch, planned: Sequence[int], heard: Sequence[int]) -> Batch:
    """Remove the columns of each spoken turn that its speech didn't use; later columns move forward.

    Args:
        batch: Grids with the planned columns.
        planned: Columns of each clip in the grids.
        heard: Columns of each clip that are used; never more than planned.
    """
    if list(planned) == list(heard):
        return batch
    kept = torch.ones(batch.answer_mask.shape, dtype=torch.bool, device=batch.tokens.device)
    for row, spans in enumerate(batch.speech):
        for start, clip in spans:
            kept[row, start + heard[clip] : start + planned[clip]] = False
    speech = [[(int(kept[row, :start].sum()), clip) for start, clip in spans] for row, spans in enumerate(batch.speech)]
    # A stable sort moves the unused columns to the end. They hold only pads, so there they are ordinary padding.
    order = (~kept).long().argsort(dim=1, stable=True)[:, : int(kept.sum(dim=1).max())]
    by_stream = order[:, None].expand(-1, batch.tokens.shape[1], -1)
    return replace(
        batch,
        tokens=batch.tokens.gather(2, by_stream),
        loss_mask=batch.loss_mask.gather(2, by_stream),
        answer_mask=batch.answer_mask.gather(1, order),
        speech=speech,
    )
