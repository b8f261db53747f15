"""Many typed questions answered at once, greedily and in writing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.runner import run_all
from anytalk.decode.session import begin_generation
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import T1T2
from anytalk.model.talker import Talker


def greedy_answers(
    talker: Talker,
    questions: Sequence[str],
    *,
    max_tokens: int = 128,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """The talker's own greedy text answers (task T1T2), many at once.

    Args:
        talker: Who answers.
        questions: Typed questions.
        max_tokens: Longest answer.
        batch_size: Rows at once.
        progress: Told the questions done, of how many.

    Raises:
        ServedError: a model that is served elsewhere didn't answer them all.
    """
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
