"""Answers of a fixed length: a talker that was never trained doesn't know when to stop, one that was stops too soon."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from anytalk.decode.engine import Generation
from anytalk.plugins.contracts import StreamLogits


class PacedGeneration(Generation):
    """Chooses tokens as ever, and then keeps to its length: a number of columns with text, sound to the last column.

    Args:
        text_columns: Columns with text, its end included.
    """

    def __init__(self, *arguments: Any, text_columns: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.text_columns = text_columns

    def is_done(self, index: int) -> bool:
        """Only the column budget ends it."""
        return False

    def _next_text(self, logits: Tensor | None, index: int) -> int:
        end = self.model.layout.end_of_text_id
        token = super()._next_text(logits, index)
        if self.answer.text_ended:
            return token
        if index + 1 >= self.text_columns:
            return end
        return token if token != end else (end + 1) % self.model.layout.text_vocab_size

    def _next_audio(self, logits: StreamLogits, index: int) -> np.ndarray:
        column = super()._next_audio(logits, index)
        column[column == self.model.layout.eoa] = 0
        return column
