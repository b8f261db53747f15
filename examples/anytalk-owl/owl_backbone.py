"""A Hugging Face causal LM with a twist: its embeddings are scaled, and its turns have a spelling of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anytalk.plugins.hf import CausalLMBackbone

TURNS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


class OwlBackbone(CausalLMBackbone):
    def __init__(self, lm: Any, tokenizer: Any, licence: str = "unknown") -> None:
        tokenizer.chat_template = TURNS
        super().__init__(lm, tokenizer, licence)

    def embed_text(self, ids: Tensor) -> Tensor:
        return super().embed_text(ids) * self.width**0.5
