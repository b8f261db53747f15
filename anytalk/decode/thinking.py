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
from anytalk.plugins.contracts import Backbone, TextTokenizer
from anytalk.plugins.thoughts import ThoughtReader

_TEMPLATE_TOKENS = 4
"""How many tokens at a prompt's end may be the template's: ``<think>``, ``</think>``, and line breaks around them."""
_MARK_TOKENS = 24
"""How many tokens at most a mark of ordinary text may take, with what is around it."""


class TokenMarks:
    """Finds the marks around thoughts if each is a single token.

    Args:
        ids: The tokens before and after the thoughts.
    """

    def __init__(self, ids: tuple[int, int]) -> None:
        self._first, self._last = ids

    def reader(self, is_open: bool) -> ThoughtReader | None:
        """Return a reader that finds the marks in decoded text; None, because these are found by their ids."""
        return None

    def at_end(self, ids: Sequence[int]) -> tuple[bool, bool]:
        """Return whether a prompt has begun thoughts, and whether it has ended them."""
        end = ids[-_TEMPLATE_TOKENS:]
        return self._first in end, self._last in end

    def begins(self, ids: Sequence[int]) -> bool | None:
        """Return whether an answer begins with thoughts; None while that can't be known."""
        return ids[0] == self._first

    def closed(self, ids: Sequence[int]) -> list[int] | None:
        """Return the thoughts with their closing mark if the last token closes them, None otherwise."""
        return list(ids) if ids[-1] == self._last else None

    def close(self, ids: Sequence[int]) -> list[int]:
        """Return thoughts that were cut off with a closing mark added."""
        return [*ids, self._last]


class TextMarks:
    """Finds the marks around thoughts if they are ordinary text of any number of tokens.

    Args:
        marks: The strings before and after the thoughts.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, marks: tuple[str, str], tokenizer: TextTokenizer) -> None:
        self._first, self._last = marks
        self._tokenizer = tokenizer

    def reader(self, is_open: bool) -> ThoughtReader | None:
        """Return as :meth:`TokenMarks.reader`."""
        return ThoughtReader((self._first, self._last), is_open)

    def at_end(self, ids: Sequence[int]) -> tuple[bool, bool]:
        """Return as :meth:`TokenMarks.at_end`."""
        end = self._tokenizer.decode(ids[-_MARK_TOKENS:]).rstrip()
        return end.endswith(self._first), end.endswith(self._last)

    def begins(self, ids: Sequence[int]) -> bool | None:
        """Return as :meth:`TokenMarks.begins`."""
        said = self._tokenizer.decode(ids).lstrip()
        if len(said) < len(self._first) and self._first.startswith(said):
            return None
        return said.startswith(self._first)

    def closed(self, ids: Sequence[int]) -> list[int] | None:
        """Return as :meth:`TokenMarks.closed`; text after the mark in the last token is dropped unless it is blank."""
        _, found, words = self._tokenizer.decode(ids[-_MARK_TOKENS:]).rpartition(self._last)
        if not found:
            return None
        if not words.strip():
            return list(ids)
        return self._tokenizer.encode(self._tokenizer.decode(ids).rpartition(self._last)[0] + self._last)

    def close(self, ids: Sequence[int]) -> list[int]:
        """Return as :meth:`TokenMarks.close`."""
        return [*ids, *self._tokenizer.encode(f"\n{self._last}\n\n")]


class Thinking(Generation):
    """Chooses the tokens of the thoughts before an answer, up to the mark that ends them.

    If the model begins without the opening mark, it doesn't think, and this generation ends at once.

    Attributes:
        is_open: Whether the opening mark was written, by the template or by the model.
        reader: See :meth:`TokenMarks.reader`.
    """

    def __init__(
        self,
        talker: Talker,
        prompt: Prompt,
        speech: Sequence[Tensor],
        options: DecodeOptions,
        marks: TokenMarks | TextMarks,
        is_open: bool,
    ) -> None:
        super().__init__(talker.model, talker.config.grid.delay_pattern(), options, [prompt], speech, audio_out=False)
        self._marks = marks
        self._closed: list[int] | None = None
        self.is_open = is_open
        self.reader = marks.reader(is_open)

    def _next_text(self, logits: Tensor | None, index: int) -> int:
        token, end = super()._next_text(logits, index), self.model.layout.end_of_text_id
        if token == end:
            return end
        ids = [*self.answer.text_ids, token]
        if not self.is_open:
            begins = self._marks.begins(ids)
            if begins is False:
                return end  # the model answers without thinking
            self.is_open = begins is True
        if self.is_open:
            self._closed = self._marks.closed(ids)
        return token if self._closed is None else end

    def prompt_of_answer(self, prompt: Prompt) -> Prompt:
        """Return the answer's prompt followed by the thoughts, with the closing mark even if they were cut off."""
        if not self.is_open:
            return prompt
        return _continued(prompt, self._closed or self._marks.close(self.answer.text_ids), self.model.layout)


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
    marks = _marks_of(talker.model.backbone)
    if marks is None or task.answer != "answer" or talker.prompts.style != "chat":
        return None
    is_open, is_closed = marks.at_end(prompt.tokens[talker.model.layout.text_row].tolist())
    if is_closed:
        return None  # the template has closed the thoughts already
    # Thoughts are text, so their prompt has no mark that starts audio.
    silent = talker.prompts.text_only_row(prompt)
    options = replace(options, max_columns=columns_left(talker, prompt, options.max_columns, share=2), stops=())
    return Thinking(talker, silent, speech, options, marks, is_open)


def _marks_of(backbone: Backbone) -> TokenMarks | TextMarks | None:
    if backbone.thought_ids is not None:
        return TokenMarks(backbone.thought_ids)
    return None if backbone.thought_marks is None else TextMarks(backbone.thought_marks, backbone.tokenizer)


def check_room(talker: Talker, prompt: Prompt) -> None:
    """Raise ConfigError, with the prompt's length, if it leaves the model no position for an answer."""
    positions = talker.model.backbone.max_positions
    if positions is not None and prompt.num_columns >= positions:
        raise ConfigError(
            f"the conversation takes {prompt.num_columns} columns, and the model has {positions} positions",
            "ask a shorter question, or begin a new conversation",
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
