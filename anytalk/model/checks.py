"""Checks, when a talker is made of a language model, that its weights and its chat template can be used."""

from __future__ import annotations

import torch

from anytalk.errors import AnytalkError, ConfigError, WeightsError
from anytalk.model.config import GridConfig
from anytalk.plugins.contracts import Backbone, ServedBackbone

_TOKENS = 16  # that a model is shown
# "<" and "&" show whether a template escapes text.
_PROBES = ("anytalk asks: 1 < 2 & 3?", "anytalk answers", "anytalk asks again")


def check_weights(backbone: Backbone, name: str) -> list[str]:
    """Refuse weights that are, or lead to, NaN or infinity.

    Returns:
        What is unusual about them, a sentence each.

    Raises:
        WeightsError: Names the first such tensor, or says that the model computes such values.
    """
    empty = []
    for tensor, values in backbone.named_parameters():
        if not bool(torch.isfinite(values).all()):
            raise WeightsError(
                f"the weights of '{name}' hold values that are not finite, first in '{tensor}'",
                "download or copy the model again; if it was trained, take an earlier checkpoint",
            )
        if values.dim() > 1 and not bool(values.any()):
            empty.append(tensor)
    found = []
    if empty:
        found.append(f"{len(empty)} of its matrices hold only zeros, first '{empty[0]}': was it downloaded whole?")
    if not isinstance(backbone, ServedBackbone) and not _tells_tokens_apart(backbone, name):
        found.append("every token is as likely as any other, whatever it is shown: are its weights damaged?")
    return found


@torch.no_grad()
def _tells_tokens_apart(backbone: Backbone, name: str) -> bool:
    """Let a model read tokens from all of its vocabulary; WeightsError where it can't, or computes no numbers."""
    # Finite weights aren't enough: a wrong number in config.json, such as an epsilon, also makes logits NaN.
    hint = "is a number in its config.json wrong, or a weight damaged? Copy or download the model again"
    size, positions = backbone.text_vocab_size, backbone.max_positions or _TOKENS
    ids = torch.linspace(0, size - 1, min(_TOKENS, size, positions)).long()[None]
    try:
        embeds = backbone.embed_text(ids.to(next(backbone.parameters()).device))
        logits = backbone.text_logits(backbone(embeds).normed)
    except Exception as error:  # whatever its class makes of its settings
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"'{name}' can't read {ids.shape[1]} tokens: {reason}", hint) from None
    if not bool(torch.isfinite(logits).all()):
        raise WeightsError(f"'{name}' computes values that are not finite", hint)
    return bool((logits.amax(-1) > logits.amin(-1)).any())


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
        raise ConfigError(f"the model's chat template leaves out the text of messages with the role '{lost}'", hint)
    places = [rendered.find(text.strip()) for _, text in said]
    if places != sorted(places):
        raise ConfigError("the model's chat template changes the order of messages", hint)
    if any(rendered.count(text) > 1 for text in _PROBES):
        raise ConfigError("the model's chat template writes a message more than once", hint)
    if any(token >= backbone.text_vocab_size for token in tokenizer.encode_rendered(rendered)):
        raise ConfigError("the model's chat template writes tokens that the model has no embedding for", hint)
    shortest = tokenizer.encode_rendered(tokenizer.render_chat([{"role": "user", "content": "?"}], **grid.template))
    if backbone.max_positions is not None and len(shortest) >= backbone.max_positions:
        raise ConfigError(
            f"a question of one letter takes {len(shortest)} tokens in the model's chat template, and the model has"
            f" {backbone.max_positions} positions",
            "is max_position_embeddings in its config.json right? Otherwise " + hint,
        )
