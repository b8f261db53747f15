"""Offers Qwen2 and Qwen2.5 (arXiv 2407.10671); the paper's backbone is Qwen2-0.5B."""

from __future__ import annotations

from typing import Any, Self

import torch
import transformers

from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import torch_dtype
from anytalk.plugins.gguf_header import read_header
from anytalk.plugins.hf.causal_lm import CausalLMBackbone
from anytalk.plugins.sources import ModelSource, random_shapes

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
"""The reference size: ``Qwen2Config(**QWEN2_0_5B)`` equals config.json of Qwen/Qwen2-0.5B."""

_TINY: dict[str, Any] = QWEN2_0_5B | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}


class Qwen2Backbone(CausalLMBackbone):
    """A Qwen2 or Qwen2.5 of any size; ``model: random:0.5b`` has the shapes of Qwen2-0.5B and random weights."""

    @classmethod
    def build(cls, options: CausalLMBackbone.Options, context: BuildContext) -> Self:
        """Load the weights, or draw them (WeightsError: they are missing, damaged or of the wrong kind)."""
        shapes = random_shapes(options.model, {"0.5b": QWEN2_0_5B, "tiny": _TINY})
        if shapes is None:
            return super().build(options, context)
        # A fixed seed that leaves the caller's random numbers alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            lm: Any = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shapes))
        # A byte tokenizer needs no files, and speed doesn't depend on how many of the ids are used.
        backbone = cls(lm.eval().to(torch_dtype(context.dtype)), transformers.ByT5Tokenizer())
        return backbone.to(context.device)

    @classmethod
    def recognises(cls, source: ModelSource) -> bool:
        """Return True for model_type qwen2, a GGUF file of that architecture, or a hub id of the Qwen2 family."""
        if source.is_hub:
            # Qwen2-VL and Qwen2-Audio have other classes and weights.
            return source.spec.startswith("Qwen/Qwen2") and "VL" not in source.spec and "Audio" not in source.spec
        if source.is_gguf:
            return read_header(source.paths[0]).get("general.architecture") == "qwen2"
        return source.hf_config().get("model_type") == "qwen2"
