"""Checks, when a talker is made of a language model, that its weights and its chat template can be used."""

from __future__ import annotations

import torch

from anytalk.errors import AnytalkError, ConfigError, WeightsError
from anytalk.model.config import GridConfig
from anytalk.plugins.contracts import Backbone, ServedBackbone

# "<" and "&" show whether a template escapes text.
_PROBES = ("anytalk asks: 1 < 2 & 3?", "anytalk answers", "anytalk asks again")


def check_weights(backbone: Backbone, name: str) -> None:
    """Refuse weights that are, or lead to, NaN or infinity.

    Raises:
        WeightsError: Names the first such tensor, or says that the model computes such values.
    """
    for tensor, values in backbone.named_parameters():
        if not bool(torch.isfinite(values).all()):
            raise WeightsError(
                f"the weights of '{name}' hold values that are not finite, first in '{tensor}'",
                "download or copy the model again; if it was trained, take an earlier checkpoint",
            )
    if isinstance(backbone, ServedBackbone):
        return
    # Finite weights aren't enough: a wrong number in config.json, such as an epsilon, also makes logits NaN.
    with torch.no_grad():
        first = torch.zeros((1, 1), dtype=torch.int64, device=next(backbone.parameters()).device)
        logits = backbone.text_logits(backbone(backbone.embed_text(first)).normed)
    if not bool(torch.isfinite(logits).all()):
        raise WeightsError(f"'{name}' computes values that are not finite", "is a number in its config.json wrong?")


def check_template(backbone: Backbone, grid: GridConfig) -> None:
    """Render a short conversation; check that the prompt holds all of its text, in tokens that the model embeds.

    Raises:
        ConfigError: The chat template can't be used; the hint says what to do instead.
    """
    if grid.prompt != "chat":
        return
    tokenizer, hint = backbone.tokenizer, "ask without it: --set grid.prompt=raw, or repair the template"
    system = [("system", grid.system)] if grid.system else []
    said = [*system, *zip(("user", "assistant", "user"), _PROBES, strict=True)]
    try:
        rendered = tokenizer.render_chat([{"role": r, "content": text} for r, text in said], **grid.template)
    except AnytalkError as error:
        raise ConfigError(error.message, hint) from None
    # Stripped text is fine; escaped or dropped text isn't.
    lost = next((role for role, text in said if text.strip() not in rendered), None)
    if lost is not None:
        raise ConfigError(f"the model's chat template leaves out what messages of the role '{lost}' say", hint)
    if any(token >= backbone.text_vocab_size for token in tokenizer.encode_rendered(rendered)):
        raise ConfigError("the model's chat template writes tokens that the model has no embedding for", hint)
