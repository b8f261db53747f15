"""Qwen2 and Qwen2.5 (arXiv 2407.10671): the paper's backbone is Qwen2-0.5B."""

from __future__ import annotations

from typing import Any

from anytalk.plugins.sources import ModelSource
from anytalk_backbones import gguf_file
from anytalk_backbones.causal_lm import CausalLMBackbone

QWEN2_0_5B: dict[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "tie_word_embeddings": True,
}
"""``Qwen2Config(**QWEN2_0_5B)``: the reference size (config.json of Qwen/Qwen2-0.5B)."""


class Qwen2Backbone(CausalLMBackbone):
    """Qwen2 and Qwen2.5 of any size."""

    @classmethod
    def recognises(cls, source: ModelSource) -> bool:
        """A folder with model_type qwen2, a GGUF file of that architecture, or a hub id of the Qwen2 family."""
        if source.is_hub:
            return source.spec.startswith("Qwen/Qwen2") and "VL" not in source.spec and "Audio" not in source.spec
        if source.suffix == ".gguf":
            return gguf_file.read_header(source.path).get("general.architecture") == "qwen2"
        return source.hf_config().get("model_type") == "qwen2"
