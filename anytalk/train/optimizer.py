"""Build AdamW for the parameters that train."""

from __future__ import annotations

import torch
from torch import nn

from anytalk.train.config import StageConfig

_TABLES = ("audio_embeddings.", "special_tokens.")


def make_optimizer(model: nn.Module, stage: StageConfig, fused: bool = True) -> torch.optim.AdamW:
    """Build AdamW; its weight decay applies to matrices, not to biases, norms and embedding tables.

    `fused` selects torch's fused kernel, which passes over a parameter's memory once instead of several times.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decays = [p.ndim == 2 and id(p) not in tables and not n.startswith(_TABLES) for n, p in named]
    decayed = [p for (_, p), does in zip(named, decays, strict=True) if does]
    plain = [p for (_, p), does in zip(named, decays, strict=True) if not does]
    groups = [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=stage.learning_rate, betas=(0.9, 0.95), fused=fused)
