"""The losses on rows that nothing is learned from: whether a talker learns, or only knows its rows by heart."""

from __future__ import annotations

from collections.abc import Callable

import torch

from anytalk.data.batches import Batch, Step
from anytalk.train.engine import Engine

HELD_OUT_ROWS = 64
"""Rows that are looked at each time, always the same ones."""

PREFIX = "held_out."


class HeldOut:
    """The same rows, all of them as one step, measured every `every` steps."""

    def __init__(self, work: Step, every: int, seed: int) -> None:
        self._work, self._every, self._seed = work, every, seed

    def is_due(self, step: int, last: int) -> bool:
        """Whether to measure after this step."""
        return step % self._every == 0 or step == last

    def look(self, engine: Engine, ready: Callable[[Batch], Batch]) -> dict[str, float]:
        """The stage's losses without dropout, named with :data:`PREFIX`; `ready` moves batches to the device."""
        module = engine.module
        modes = {part: part.training for part in module.modules()}  # frozen parts don't train
        module.eval()
        torch.manual_seed(self._seed)
        factors = module.factors(self._work.counts)
        total = torch.zeros(len(module.names), dtype=torch.float64)
        try:
            with torch.no_grad():
                for batch in self._work.passes:
                    total += engine.forward(ready(batch), factors)[1].double().cpu()
        finally:
            for part, mode in modes.items():
                part.training = mode
        means = module.means(engine.sum(total), factors, self._work.counts)
        return {PREFIX + name: value for name, value in means.items()}
