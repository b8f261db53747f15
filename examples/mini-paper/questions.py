"""The paper's open questions, each as one change of a small talker that learns to read aloud."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anytalk.plugins.hf.loading import load_causal_lm, quiet_transformers
from anytalk.plugins.sources import resolve


@dataclass(frozen=True)
class Variant:
    """One change."""

    title: str  # as the page calls it
    settings: tuple[str, ...] = ()  # of talker.yaml
    seed: int = 0  # of the new parts and of the order of the data


VARIANTS = {
    "base": Variant("delay, sum, no lead"),
    "seed": Variant("the same with another seed", seed=1),
    "lead_1": Variant("text lead 1", ("grid.text_lead=1",)),
    "lead_2": Variant("text lead 2", ("grid.text_lead=2",)),
    "lead_4": Variant("text lead 4", ("grid.text_lead=4",)),
    "mean": Variant("mean of the embeddings, not their sum", ("grid.merge=mean",)),
    "flatten": Variant("one stream, flattened", ("grid.pattern=flatten",)),
}


def ablation_recipe(scale: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """One stage in which everything but the text embeddings learns to read aloud (T1A1)."""
    stage = {
        "name": "read",
        "train": [*scale["moves"], "heads", "audio_embeddings", "special_tokens"],
        "tasks": {"T1A1": 1.0},
        "seed": variant.seed,
        **scale["stage"],
    }
    if "grid.pattern=flatten" in variant.settings:
        stage["batch_size"] = scale["flatten_rows"]
    return {"name": "questions", "stages": [stage]}


def shortened(model: str, layers: int, folder: Path) -> None:
    """Write the first layers of a language model as a model of its own."""
    loaded = load_causal_lm(resolve(model), None, torch.float32)
    loaded.lm.model.layers = loaded.lm.model.layers[:layers]
    loaded.lm.config.num_hidden_layers = layers
    with quiet_transformers():
        loaded.lm.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
