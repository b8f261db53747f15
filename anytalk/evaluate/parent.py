"""Ask the language model that a talker was made from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anytalk.grid.chat import typed_chat
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import T1T2
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Backbone


def parent_prompt(talker: Talker, parent: Backbone, question: str) -> list[int]:
    """Return the ids of a question in the form in which the parent itself is asked.

    For chat talkers they are the text row of the talker's own prompt. A raw talker's prompt has special tokens that the
    parent doesn't know, so the parent gets its own chat template, or the plain question if it has none.
    """
    if talker.config.grid.prompt == "chat":
        prompt = talker.prompts.prompt(T1T2, [Turn("user", question)])
        ids: list[int] = prompt.tokens[talker.model.layout.text_row].tolist()
        return ids
    tokenizer = parent.tokenizer
    if not tokenizer.has_chat_template:
        return tokenizer.encode(question)
    return typed_chat(tokenizer, [{"role": "user", "content": question}])


@torch.no_grad()
def parent_logits(parent: Backbone, ids: Sequence[int]) -> Tensor:
    """Return the logits (T,V) after each id."""
    device = next(parent.parameters()).device
    states = parent(parent.embed_text(torch.tensor([list(ids)], device=device)))
    return parent.text_logits(states.normed)[0]
