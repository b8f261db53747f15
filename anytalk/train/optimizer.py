"""AdamW over what trains."""

from __future__ import annotations

import torch
from torch import nn

from anytalk.train.config import StageConfig

_TABLES = ("audio_embeddings.", "special_tokens.")


def make_optimizer(model: nn.Module, stage: StageConfig, fused: bool = True) -> torch.optim.AdamW:
    """Make AdamW over trainable parameters; matrices decay, biases, norms and embedding tables don't.

    With `fused` by torch's own kernel: one pass over the memory of a parameter instead of several.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decays = [p.ndim == 2 and id(p) not in tables and not n.startswith(_TABLES) for n, p in named]
    decayed = [p for (_, p), does in zip(named, decays, strict=True) if does]
    plain = [p for (_, p), does in zip(named, decays, strict=True) if not does]
    groups = [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=stage.learning_rate, betas=(0.9, 0.95), fused=fused)
