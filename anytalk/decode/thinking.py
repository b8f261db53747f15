"""Thoughts that a model writes before its answer: written first, without a voice, and kept apart from what is said."""

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
"""Of a prompt's end that can be the template's: ``<think>``, its end, and line breaks around them."""


class Thinking(Generation):
    """Chooses the tokens of the thoughts before one answer, up to the mark that ends them; none where none begin.

    Attributes:
        is_open: Whether the mark in front of thoughts was written, by the template or by the model.
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
            return self.model.layout.end_of_text_id  # it answers at once
        self.is_open = True
        return self.model.layout.end_of_text_id if token == self._last else token

    def prompt_of_answer(self, prompt: Prompt) -> Prompt:
        """Return the prompt of the answer, followed by the thoughts, and ended where they were too long."""
        if not self.is_open:
            return prompt
        return _continued(prompt, [*self.answer.text_ids, self._last], self.model.layout)


def thoughts_before(
    talker: Talker, task: Task, prompt: Prompt, speech: Sequence[Tensor], options: DecodeOptions
) -> Thinking | None:
    """Return the thoughts that have to be written before an answer; None where the model doesn't think.

    Args:
        talker: Who answers.
        task: What is asked for; only answers are thought about.
        prompt: Of the answer.
        speech: Embeddings of its spoken turns, (L,D) each.
        options: Of the answer; thoughts may take as many columns, and half of the positions that are left.
    """
    marks, layout = talker.model.backbone.thought_ids, talker.model.layout
    if marks is None or task.answer != "answer" or talker.prompts.style != "chat":
        return None
    first, last = marks
    end = prompt.tokens[layout.text_row, -_TEMPLATE_TOKENS:].tolist()
    if last in end:
        return None  # the template has closed them
    silent = talker.prompts.text_only_row(prompt)
    options = replace(options, max_columns=columns_left(talker, prompt, options.max_columns, share=2))
    return Thinking(talker, silent, speech, options, is_open=first in end)


def check_room(talker: Talker, prompt: Prompt) -> None:
    """Refuse a prompt that leaves the model no position for an answer (ConfigError: how long it is)."""
    positions = talker.model.backbone.max_positions
    if positions is not None and prompt.num_columns >= positions:
        raise ConfigError(
            f"the conversation takes {prompt.num_columns} columns, and the model has {positions} positions",
            "ask less at once, or begin a new conversation",
        )


def columns_left(talker: Talker, prompt: Prompt, wanted: int, share: int = 1) -> int:
    """Return how many columns may be written after a prompt: `wanted`, or a share of the positions that it leaves."""
    positions = talker.model.backbone.max_positions
    return wanted if positions is None else max(1, min(wanted, (positions - prompt.num_columns) // share))


def _continued(prompt: Prompt, ids: Sequence[int], layout: StreamLayout) -> Prompt:
    """Return a prompt whose text goes on; its last column's audio rows move to the new last one."""
    more = np.full((layout.num_streams, len(ids)), layout.pad_a, dtype=np.int64)
    more[layout.text_row] = ids
    before = prompt.tokens.copy()
    more[: layout.text_row, -1] = before[: layout.text_row, -1]
    before[: layout.text_row, -1] = layout.pad_a
    return replace(prompt, tokens=np.concatenate([before, more], axis=1))
