"""Defines the base class of the hearings ``beam`` and ``words``, which lets the backbone choose between lines."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, HeardBatch, Hearing, InputAdapter

from .ctc_search import Line
from .input_adapters import typed
from .likely_words import Reader


class ReadingHearing(Hearing):
    """Finds token sequences that may have been heard, and may ask the backbone which one is likely."""

    licence = "MIT"

    def __init__(self, options: Any, adapter: InputAdapter, backbone: Backbone) -> None:
        super().__init__()
        self.options = options
        # Tuples hide both from nn.Module, which would save and train them as parts of the hearing.
        self._adapter, self._backbone = (adapter,), (backbone,)
        self._reader: Reader | None = None

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Take adapter and backbone from the context (ConfigError: an input adapter that can't be searched)."""
        return cls(options, context.need_input_adapter(), context.need_backbone())

    def train(self, mode: bool = True) -> Self:
        """Drop the reader, which keeps a cache of the backbone: its weights may have changed."""
        self._reader = None
        super().train(mode)
        return self

    def _columns(self, lines: list[Line], features: Tensor, lengths: Tensor) -> HeardBatch:
        """Return the chosen tokens of each clip as columns, in the dtype of (B,F,E) features."""
        return typed(lines, self._backbone[0], self._adapter[0], features, lengths)
