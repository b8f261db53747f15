"""Many typed questions answered at once, greedily and in writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from anytalk.decode.engine import legal_text
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import T1T2
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import BackboneStates, GridBatch


@torch.no_grad()
def greedy_answers(
    talker: Talker,
    questions: Sequence[str],
    *,
    max_tokens: int = 128,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """The talker's own greedy text answers (task T1T2), many at once.

    Prompts of the same length share a batch, so that no padding is needed and each answer is what the talker says when
    it is asked alone.

    Args:
        talker: Who answers.
        questions: Typed questions.
        max_tokens: Longest answer.
        batch_size: Rows at once.
        progress: Told the questions done, of how many.
    """
    prompts = [talker.prompts.prompt(T1T2, [Turn("user", question)]) for question in questions]
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(prompt.num_columns, []).append(index)
    answers = [""] * len(questions)
    done = 0
    for indices in by_length.values():
        for first in range(0, len(indices), batch_size):
            batch = indices[first : first + batch_size]
            tokens = torch.stack([torch.from_numpy(prompts[i].tokens) for i in batch])
            for index, ids in zip(batch, _answer_ids(talker, tokens.to(talker.device), max_tokens), strict=True):
                answers[index] = talker.model.backbone.tokenizer.decode(ids).strip()
            done += len(batch)
            progress(done, len(questions))
    return answers


def _answer_ids(talker: Talker, tokens: torch.Tensor, max_tokens: int) -> Iterable[list[int]]:
    """(B,S,T) prompts of one length -> text ids of each answer, the end left out."""
    model, layout = talker.model, talker.model.layout
    rows = tokens.shape[0]
    ids: list[list[int]] = [[] for _ in range(rows)]
    running = list(range(rows))
    cache = model.new_cache(rows, tokens.shape[2] + max_tokens, 0)
    for _ in range(max_tokens):
        states: BackboneStates = model.backbone(model.embed(GridBatch(tokens)).backbone, cache.backbone)
        logits = legal_text(model.text_logits(states.normed[:, -1:])[:, 0], layout)
        chosen = logits.argmax(dim=-1)
        going = [place for place, token in enumerate(chosen.tolist()) if token != layout.end_of_text_id]
        for place in going:
            ids[running[place]].append(int(chosen[place]))
        if not going:
            break
        if len(going) < len(running):
            cache.backbone.keep_rows(going)
            running, chosen = [running[place] for place in going], chosen[going]
        tokens = torch.full((len(running), layout.num_streams, 1), layout.pad_a, device=tokens.device)
        tokens[:, layout.text_row, 0] = chosen
    return ids
