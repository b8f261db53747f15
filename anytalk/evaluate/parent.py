"""Asking the language model that a talker was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import T1T2
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Backbone


def parent_prompt(talker: Talker, parent: Backbone, question: str) -> list[int]:
    """Ids of a question as the parent itself is asked.

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
    return tokenizer.encode(tokenizer.render_chat([{"role": "user", "content": question}]))


@torch.no_grad()
def parent_logits(parent: Backbone, ids: Sequence[int]) -> Tensor:
    """Ids -> (T,V): logits behind each of them."""
    device = next(parent.parameters()).device
    states = parent(parent.embed_text(torch.tensor([list(ids)], device=device)))
    return parent.text_logits(states.normed)[0]


@torch.no_grad()
def stream_answer(parent: Backbone, prompt: Sequence[int], max_tokens: int) -> Iterator[int]:
    """The parent's greedy answer token by token, its end token last, unless that does not come within `max_tokens`."""
    device = next(parent.parameters()).device
    cache = parent.new_cache(1, len(prompt) + max_tokens)
    step = torch.tensor([list(prompt)], device=device)
    for _ in range(max_tokens):
        states = parent(parent.embed_text(step), cache)
        step = parent.text_logits(states.normed[:, -1:]).float().argmax(-1)
        token = int(step)
        yield token
        if token == parent.tokenizer.eos_id:
            return
