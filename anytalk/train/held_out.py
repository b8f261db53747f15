"""Measure losses on held-out rows, which show whether a talker generalises or only memorises its rows."""

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
"""Number of rows per measurement, always the same ones, shared among the tasks."""

PREFIX = "held_out."


class HeldOut:
    """Measures losses on a fixed set of rows every so many steps; the rows of each task form one step.

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
        """Return whether to measure after this step: every so many steps, and after the last."""
        return step % self._every == 0 or step == last

    def look(self, engine: Engine, ready: Callable[[Batch], Batch]) -> dict[str, float]:
        """Measure the stage's losses without dropout, over all rows and over the rows of each task.

        Args:
            ready: Moves a batch to the device.

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
    """Split :data:`HELD_OUT_ROWS` among tasks by their weights, each rounded up to a multiple of the devices."""
    total = sum(tasks.values())
    return {task: -int(-HELD_OUT_ROWS * weight / total // world) * world for task, weight in tasks.items()}
