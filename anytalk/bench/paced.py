"""Generates answers of a fixed length: an untrained talker wouldn't end them, and a trained one ends them too soon."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from anytalk.decode.engine import Generation
from anytalk.plugins.contracts import StreamLogits


class PacedGeneration(Generation):
    """Chooses tokens as usual, but keeps to a fixed number of columns with text, and speaks to the last column.

    Args:
        text_columns: How many columns have text, including its end.
    """

    def __init__(self, *arguments: Any, text_columns: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.text_columns = text_columns

    def is_done(self, index: int) -> bool:
        """Return False: only the maximum number of columns ends the answer."""
        return False

    def _next_text(self, logits: Tensor | None, index: int) -> int:
        end = self.model.layout.end_of_text_id
        token = super()._next_text(logits, index)
        if self.answer.text_ended:
            return token
        if index + 1 >= self.text_columns:
            return end
        # Any other token will do: only the number of columns matters here.
        return token if token != end else (end + 1) % self.model.layout.text_vocab_size

    def _next_audio(self, logits: StreamLogits, index: int) -> np.ndarray:
        column = super()._next_audio(logits, index)
        # An end of audio becomes a code, so that the codec has something to decode in every frame.
        column[column == self.model.layout.eoa] = 0
        return column
