"""Detect steps that must be skipped: their loss is not finite, or it has exploded."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anytalk.errors import ConfigError
from anytalk.train.config import StageConfig

_MEMORY = 0.98  # decay of the running mean of the loss
_SHOWN_ROWS = 8


class LossGuard:
    """Tracks the running mean of the loss and counts skipped steps.

    Args:
        mean_loss: Running mean so far; None before the first step.
        skipped: Steps skipped so far.
    """

    def __init__(self, stage: StageConfig, mean_loss: float | None = None, skipped: int = 0) -> None:
        self._stage = stage
        self._in_a_row = 0
        self.mean_loss, self.skipped = mean_loss, skipped

    def refuses(self, loss: float) -> bool:
        """Return whether a step with this loss must be skipped; the running mean counts as at least 1 nat."""
        if not math.isfinite(loss):
            return True
        return self.mean_loss is not None and loss > self._stage.explosion * max(1.0, self.mean_loss)

    def took(self, loss: float) -> None:
        self._in_a_row = 0
        self.mean_loss = loss if self.mean_loss is None else _MEMORY * self.mean_loss + (1 - _MEMORY) * loss

    def left_out(self, step: int, loss: float, norm: float, rows: Sequence[str]) -> None:
        """Count a skipped step; ConfigError, which names the rows of this step, if too many follow each other."""
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row <= self._stage.max_skips:
            return
        shown = ", ".join(rows[:_SHOWN_ROWS])
        if len(rows) > _SHOWN_ROWS:
            shown += f" and {len(rows) - _SHOWN_ROWS} more"
        why = f"the loss is {loss:g}" if self.refuses(loss) else f"the gradient's norm is {norm:g}"
        raise ConfigError(
            f"stage '{self._stage.name}' stopped at step {step + 1}: {why}, and {self._in_a_row} steps in a row had "
            f"to be skipped; rows of the last one: {shown}",
            "look at those rows (`anytalk data preview`), lower learning_rate, or use fp32; "
            "the last checkpoint is intact",
        )
