"""Offers any causal LM that transformers knows, when no other backbone recognises a model."""

from __future__ import annotations

from typing import Any, Self

import torch

from anytalk.errors import WeightsError
from anytalk.plugins import BuildContext
from anytalk.plugins.hf.causal_lm import CausalLMBackbone
from anytalk.plugins.hf.loading import foreign_errors
from anytalk.plugins.sources import resolve

_PROBE_STEPS = 4  # enough for causality, and quick for any model


class HFBackbone(CausalLMBackbone):
    """A causal LM of a family that was never tried here, so its promises are checked when it is loaded."""

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Load the weights, then check that the text path equals the base model's.

        Raises:
            WeightsError: missing or damaged weights, or a family whose text path isn't reproduced.
        """
        backbone = super().build(options, context)
        with foreign_errors(resolve(options.model, context.folder), "copy or download the model again"):
            check_lossless(backbone)
        return backbone


@torch.no_grad()
def check_lossless(backbone: CausalLMBackbone) -> None:
    """Compare a few steps with the base model's own logits, and check that the last step changes no earlier ones.

    Raises:
        WeightsError: the logits differ, or the model isn't causal.
    """
    device = backbone.lm.get_input_embeddings().weight.device
    ids = torch.arange(_PROBE_STEPS, device=device)[None] % backbone.text_vocab_size
    logits = backbone.text_logits(backbone(backbone.embed_text(ids)).normed)
    family = backbone.lm.config.model_type
    hint = "use a Qwen2, Llama, Mistral, Gemma or Phi model, or write a backbone plugin for this family"
    # Bit-equal, since both run the same modules on the same numbers.
    if not torch.equal(logits, backbone.lm(input_ids=ids).logits):
        raise WeightsError(f"'{family}' models change their logits in a way that anytalk doesn't know", hint)
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % backbone.text_vocab_size
    other = backbone.text_logits(backbone(backbone.embed_text(changed)).normed)
    if not torch.allclose(logits[:, :-1], other[:, :-1], rtol=1e-3, atol=1e-3):
        raise WeightsError(f"this '{family}' model is not causal: a later word changes what comes before it", hint)
