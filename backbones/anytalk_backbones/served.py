"""Asks a language model at any OpenAI-compatible endpoint: vLLM, llama.cpp, Ollama, a cloud, another anytalk."""

from __future__ import annotations

from typing import Any, Self

from anytalk.plugins import BuildContext
from anytalk.plugins.endpoint import is_address
from anytalk.plugins.sources import ModelSource
from anytalk_backbones.chat_completions import ChatBackbone, EndpointOptions


class EndpointBackbone(ChatBackbone):
    """Asks an endpoint that somebody else runs."""

    class Options(EndpointOptions):
        """Says where the model is and how it is asked."""

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Build the backbone without connecting yet.

        Raises:
            ConfigError: the package openai isn't installed.
        """
        return cls(options, "a model that is served elsewhere", "served")

    @classmethod
    def recognises(cls, source: ModelSource) -> bool:
        """Return True for any address."""
        return is_address(source.spec)
