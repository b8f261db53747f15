"""The losses on rows that nothing is learned from: whether a talker learns, or only knows its rows by heart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from anytalk.data.batches import Batch, Step, Steps, StepSettings
from anytalk.data.examples import Example
from anytalk.data.feeds import Feed
from anytalk.grid.tasks import Task
from anytalk.model.talker import Talker
from anytalk.train.engine import Engine
from anytalk.train.samples import evaluating

HELD_OUT_ROWS = 64
"""Rows that are looked at each time, always the same ones; each task has its share."""

PREFIX = "held_out."


class HeldOut:
    """The same rows, those of each task as one step, looked at every so many steps.

    Attributes:
        rows: The first row of each task, with its sound or features.
    """

    def __init__(self, talker: Talker, feeds: Sequence[Feed], settings: StepSettings, every: int) -> None:
        self._every, self._seed = every, settings.seed
        self._works: dict[str, Step] = {}
        self.rows: list[tuple[Example, Task]] = []
        for task, rows in rows_by_task(settings.tasks, settings.world).items():
            steps = Steps(talker, feeds, replace(settings, tasks={task: 1.0}, batch_size=rows))
            self._works[task] = steps[0]
            self.rows.append(steps.first_row())

    def is_due(self, step: int, last: int) -> bool:
        """Return whether to look after this step: after every so many, and after the last."""
        return step % self._every == 0 or step == last

    def look(self, engine: Engine, ready: Callable[[Batch], Batch]) -> dict[str, float]:
        """Measure the stage's losses without dropout, over all rows and over those of each task.

        Args:
            ready: Brings a batch to the device.

        Returns:
            ``held_out.text``, ``held_out.A1T1.text`` and so on.
        """
        module, names = engine.module, engine.module.names
        torch.manual_seed(self._seed)
        sums = torch.zeros(len(self._works), len(names), dtype=torch.float64)
        with evaluating(module), torch.no_grad():
            for row, work in zip(sums, self._works.values(), strict=True):
                for batch in work.passes:
                    row += engine.forward(ready(batch), module.factors(work.counts))[1].double().cpu()
        sums = engine.sum(sums)
        counts = {name: sum(work.counts.get(name, 0) for work in self._works.values()) for name in names}
        means = module.means(sums.sum(dim=0), module.factors(counts), counts)
        for (task, work), row in zip(self._works.items(), sums, strict=True):
            own = module.means(row, module.factors(work.counts), work.counts)
            means |= {f"{task}.{name}": value for name, value in own.items()}
        return {PREFIX + name: value for name, value in means.items()}


def rows_by_task(tasks: Mapping[str, float], world: int) -> dict[str, int]:
    """Share :data:`HELD_OUT_ROWS` among tasks by their weights, rounded up to the same number for each device."""
    total = sum(tasks.values())
    return {task: -int(-HELD_OUT_ROWS * weight / total // world) * world for task, weight in tasks.items()}
