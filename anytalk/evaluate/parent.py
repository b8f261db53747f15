"""Asking the language model that a talker was made from."""

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
    """Return ids of a question as the parent itself is asked.

    For chat talkers that is the text row of their own prompt. A raw talker's prompt holds special tokens that the
    parent does not know: it is asked by its own chat template, or plainly where it has none.
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
    """Ids -> (T,V): logits after each of them."""
    device = next(parent.parameters()).device
    states = parent(parent.embed_text(torch.tensor([list(ids)], device=device)))
    return parent.text_logits(states.normed)[0]
