"""First-party recipes as data (``train.config.Recipe`` validates them)."""

from typing import Any

_NEW_PARTS = ["input_adapter", "output_adapter", "heads", "audio_embeddings", "special_tokens"]
_EVERYTHING = [*_NEW_PARTS, "backbone"]

_EPOCH: dict[str, Any] = {
    "steps": 40_000,
    "batch_size": 192,
    "learning_rate_floor": 4e-6,
    "warmup_steps": 1_500,
    "checkpoint_every": 1_000,
}
"""The paper's "epoch" (section 4.2); the warm-up and the checkpoints are ours."""

PAPER: dict[str, Any] = {
    "name": "paper",
    "stages": [
        # 1. Modality alignment: the adapters learn, the language model stands still (paper 3.3).
        {
            "name": "alignment",
            "train": _NEW_PARTS,
            "tasks": {"A1T1": 1.0, "T1A1": 1.0},
            **_EPOCH,
            "learning_rate": 4e-4,
        },
        # 2. Adaption: the language model learns to answer speech in text, adapters stand still.
        {
            "name": "adaption",
            "train": ["backbone"],
            "tasks": {"A1T1": 1.0, "T1T2": 1.0, "A1T2": 1.0},
            **_EPOCH,
            "learning_rate": 4e-4,
        },
        # 3. Multi-modal fine-tuning: everything, on all tasks.
        {
            "name": "multimodal",
            "train": _EVERYTHING,
            "tasks": {"A1A2": 1.0, "A1T2": 1.0, "T1A2": 1.0, "T1T2": 1.0, "A1T1": 1.0},
            **_EPOCH,
            "learning_rate": 5e-5,
        },
        # Final annealing on voice questions and answers (paper 4.2).
        {
            "name": "annealing",
            "train": _EVERYTHING,
            "tasks": {"A1A2": 1.0},
            "steps": 10_000,
            "batch_size": 192,
            "learning_rate": 5e-5,
            "learning_rate_floor": 4e-6,
            "checkpoint_every": 1_000,
        },
    ],
}
"""The paper's three stages and the final annealing, with its figures (sections 3.3 and 4.2)."""

DEMO: dict[str, Any] = {
    "name": "demo",
    "stages": [
        {
            "name": "listen",
            "train": ["input_adapter", "special_tokens"],
            "tasks": {"A1T2": 1.0},
            "steps": 100,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "learning_rate_floor": 5e-5,
            "warmup_steps": 10,
        },
        # After `listen`: the mouth learns on the prompts that the ears give.
        {
            "name": "speak",
            "train": ["output_adapter", "heads", "audio_embeddings"],
            "tasks": {"A1A2": 2.0, "T1A2": 1.0},
            "steps": 160,
            "batch_size": 8,
            "learning_rate": 2e-3,
            "learning_rate_floor": 5e-5,
            "warmup_steps": 10,
        },
    ],
}
"""Ears, then mouth, in a few minutes on two cores; the language model stands still."""
