"""Offers what a backbone plugin for a Hugging Face family is made of. Imports torch and transformers."""

from anytalk.plugins.hf.cache import HFCache, new_hf_cache
from anytalk.plugins.hf.causal_lm import CausalLMBackbone
from anytalk.plugins.hf.loading import Loaded, load_causal_lm, quiet_transformers
from anytalk.plugins.hf.tokenizer import HFTokenizer

__all__ = [
    "CausalLMBackbone",
    "HFCache",
    "HFTokenizer",
    "Loaded",
    "load_causal_lm",
    "new_hf_cache",
    "quiet_transformers",
]
