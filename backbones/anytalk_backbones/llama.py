"""Offers Llama (arXiv 2307.09288) and models of its shape: Llama 3, SmolLM2, TinyLlama."""

from __future__ import annotations

from anytalk.plugins.gguf_header import read_header
from anytalk.plugins.hf.causal_lm import CausalLMBackbone
from anytalk.plugins.sources import ModelSource

_HUB_PREFIXES = ("meta-llama/", "HuggingFaceTB/SmolLM", "TinyLlama/")


class LlamaBackbone(CausalLMBackbone):
    """A model of Llama's shape, which may be a safetensors folder or a GGUF file."""

    @classmethod
    def recognises(cls, source: ModelSource) -> bool:
        """Return True for model_type llama, a GGUF file of that architecture, or a hub id of a known family."""
        if source.is_hub:
            return source.spec.startswith(_HUB_PREFIXES)
        if source.is_gguf:
            return read_header(source.paths[0]).get("general.architecture") == "llama"
        return source.hf_config().get("model_type") == "llama"
