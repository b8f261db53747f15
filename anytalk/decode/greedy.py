"""Generates greedy text answers: many at once from a talker, or one from a bare language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.runner import run_all
from anytalk.decode.session import begin_generation
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import T1T2
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Backbone


def greedy_answers(
    talker: Talker,
    questions: Sequence[str],
    *,
    max_tokens: int = 128,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Return the talker's greedy text answers (task T1T2) to typed questions, decoded in batches.

    Args:
        progress: Called with the number of questions answered and their total.

    Raises:
        ServedError: A served model left a question unanswered.
    """
    # Greedy sampling is the default of the options.
    options = DecodeOptions(max_columns=max_tokens)
    turns = [Turn("user", question) for question in questions]
    generations = [
        begin_generation(talker, T1T2, turn, talker.prompts.prompt(T1T2, [turn]), [], options, None) for turn in turns
    ]
    for done, _ in enumerate(run_all(talker.model, generations, batch_size), start=1):
        progress(done, len(questions))
    for generation in generations:
        if generation.error is not None:
            raise generation.error
    decode = talker.model.backbone.tokenizer.decode
    return [decode(generation.answer.text_ids).strip() for generation in generations]


@torch.no_grad()
def bare_answer(backbone: Backbone, prompt: Sequence[int], max_tokens: int) -> Iterator[int]:
    """Yield the tokens of a bare backbone's greedy answer, with the end token if it comes within `max_tokens`.

    This loop shares no code with the runner, because it is the reference for whether a talker's text is still its base
    model's.
    """
    device = next(backbone.parameters()).device
    cache = backbone.new_cache(1, len(prompt) + max_tokens)
    step = torch.tensor([list(prompt)], device=device)
    for _ in range(max_tokens):
        states = backbone(backbone.embed_text(step), cache)
        step = backbone.text_logits(states.normed[:, -1:]).float().argmax(-1)
        token = int(step)
        yield token
        if token in backbone.end_ids:
            return
