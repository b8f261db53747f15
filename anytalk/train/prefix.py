"""Compute the prompt columns that all rows of a batch share only once, without gradients, if the backbone is frozen.

The system message of a chat template begins every row. Nothing that trains affects these columns, so their keys, values
and states are the same for all rows. They are a large part of short rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anytalk.model.talk_model import TalkModel
from anytalk.plugins.contracts import BackboneStates

_WORTH_IT = 8
"""With fewer shared columns, the second call takes more time than it saves."""


def shared_prefix(model: TalkModel, tokens: Tensor) -> int:
    """Count the leading columns of tokens (B,S,T) that are the same in all rows and hold only the base model's tokens.

    Returns 0 if the backbone trains, and for the merge ``mean``, because pads are embeddings there and may train.
    """
    layout = model.layout
    if model.merge != "sum" or any(p.requires_grad for p in model.backbone.parameters()):
        return 0
    same = (tokens == tokens[:1]).all(dim=0)  # (S,T)
    plain = same[layout.text_row] & (tokens[0, layout.text_row] < layout.text_vocab_size)
    # Under the merge `sum` pads are zero, so such a column is just its text embedding.
    plain &= (same & (tokens[0] == layout.pad_a))[: layout.text_row].all(dim=0)
    return int(plain.long().cumprod(dim=0).sum())


def run_backbone(model: TalkModel, tokens: Tensor, embeds: Tensor, share: bool = True) -> BackboneStates:
    """Return the backbone's states (B,T,D) for embeddings (B,T,D) of a grid (B,S,T), with or without sharing."""
    rows, steps = embeds.shape[:2]
    # The second call needs at least one column.
    prefix = min(shared_prefix(model, tokens), steps - 1) if share else 0
    if prefix < _WORTH_IT:
        states: BackboneStates = model.backbone(embeds)
        return states
    # One row fills the cache with the shared columns, then it is repeated for all rows.
    cache = model.backbone.new_cache(1, steps)
    with torch.no_grad():
        before: BackboneStates = model.backbone(embeds[:1, :prefix], cache)
    cache.keep_rows([0] * rows)
    after: BackboneStates = model.backbone(embeds[:, prefix:], cache)
    return BackboneStates(
        torch.cat([before.pre_norm.expand(rows, -1, -1), after.pre_norm], dim=1),
        torch.cat([before.normed.expand(rows, -1, -1), after.normed], dim=1),
    )
