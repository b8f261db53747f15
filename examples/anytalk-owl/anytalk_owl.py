"""The hook of the plugin; it imports neither torch nor transformers."""

import anytalk


@anytalk.hookimpl
def register_backbones() -> list[anytalk.Component]:
    return [anytalk.Component("owl", "owl_backbone:OwlBackbone", "a causal LM with scaled embeddings")]
