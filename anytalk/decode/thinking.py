"""Generates the thoughts that a model writes before its answer, without a voice and apart from the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.errors import ConfigError
from anytalk.grid.prompts import Prompt
from anytalk.grid.tasks import Task
from anytalk.grid.tokens import StreamLayout
from anytalk.model.talker import Talker

_TEMPLATE_TOKENS = 4
"""How many tokens at a prompt's end may be the template's: ``<think>``, ``</think>``, and line breaks around them."""


class Thinking(Generation):
    """Chooses the tokens of the thoughts before an answer, up to the mark that ends them.

    If the model begins without the opening mark, it doesn't think, and this generation ends at once.

    Attributes:
        is_open: Whether the opening mark was written, by the template or by the model.
    """

    def __init__(
        self, talker: Talker, prompt: Prompt, speech: Sequence[Tensor], options: DecodeOptions, is_open: bool
    ) -> None:
        super().__init__(talker.model, talker.config.grid.delay_pattern(), options, [prompt], speech, audio_out=False)
        marks = talker.model.backbone.thought_ids
        assert marks is not None
        self._first, self._last = marks
        self.is_open = is_open

    def _next_text(self, logits: Tensor | None, index: int) -> int:
        token = super()._next_text(logits, index)
        if not self.is_open and token != self._first:
            return self.model.layout.end_of_text_id  # the model answers without thinking
        self.is_open = True
        return self.model.layout.end_of_text_id if token == self._last else token

    def prompt_of_answer(self, prompt: Prompt) -> Prompt:
        """Return the answer's prompt followed by the thoughts, with the closing mark even if they were cut off."""
        if not self.is_open:
            return prompt
        return _continued(prompt, [*self.answer.text_ids, self._last], self.model.layout)


def thoughts_before(
    talker: Talker, task: Task, prompt: Prompt, speech: Sequence[Tensor], options: DecodeOptions
) -> Thinking | None:
    """Return the generation of the thoughts before an answer; None if the model doesn't think here.

    Args:
        talker: The talker that answers.
        task: The task; models think only before answers.
        prompt: The prompt of the answer.
        speech: Embeddings of its spoken turns, (L,D) each.
        options: Options of the answer. Thoughts may be as long as an answer, but leave half of the free positions.
            Its stop strings are not looked for in them.
    """
    marks, layout = talker.model.backbone.thought_ids, talker.model.layout
    if marks is None or task.answer != "answer" or talker.prompts.style != "chat":
        return None
    first, last = marks
    end = prompt.tokens[layout.text_row, -_TEMPLATE_TOKENS:].tolist()
    if last in end:
        return None  # the template has closed the thoughts already
    # Thoughts are text, so their prompt has no mark that starts audio.
    silent = talker.prompts.text_only_row(prompt)
    options = replace(options, max_columns=columns_left(talker, prompt, options.max_columns, share=2), stops=())
    return Thinking(talker, silent, speech, options, is_open=first in end)


def check_room(talker: Talker, prompt: Prompt) -> None:
    """Raise ConfigError, with the prompt's length, if it leaves the model no position for an answer."""
    positions = talker.model.backbone.max_positions
    if positions is not None and prompt.num_columns >= positions:
        raise ConfigError(
            f"the conversation takes {prompt.num_columns} columns, and the model has {positions} positions",
            "ask less at once, or begin a new conversation",
        )


def columns_left(talker: Talker, prompt: Prompt, wanted: int, share: int = 1) -> int:
    """Return how many columns may follow a prompt: `wanted`, or a `share`-th of the positions that it leaves."""
    positions = talker.model.backbone.max_positions
    return wanted if positions is None else max(1, min(wanted, (positions - prompt.num_columns) // share))


def _continued(prompt: Prompt, ids: Sequence[int], layout: StreamLayout) -> Prompt:
    """Append text tokens to a prompt; the audio marks of its last column, which start the answer, move to the end."""
    more = np.full((layout.num_streams, len(ids)), layout.pad_a, dtype=np.int64)
    more[layout.text_row] = ids
    before = prompt.tokens.copy()
    # The mark that starts the answer's audio belongs to the last column, wherever that is.
    more[: layout.text_row, -1] = before[: layout.text_row, -1]
    before[: layout.text_row, -1] = layout.pad_a
    return replace(prompt, tokens=np.concatenate([before, more], axis=1))
