"""Choose the examples and tasks of an optimizer step from the seed and the step's number alone.

There is no state to save or to lose: a run that resumes at a step sees the same rows as an uninterrupted run, with any
number of loader workers or devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anytalk.data.feeds import Feed
from anytalk.errors import ConfigError

_DRAWS = 7919
"""Keeps the seeds of the draws different from those of the epochs."""


@dataclass(frozen=True)
class Draw:
    """Names one row of a step: its task, the feed that it is drawn from, and its index there."""

    task: int
    feed: int
    index: int


class Mixture:
    """Draws tasks by their weights, then a feed by its weight, then the feed's examples epoch after epoch.

    *Every* batch keeps the shares to within one row, not only the average: sampling is systematic with a random start.

    Args:
        batch_size: Rows of a step, over all devices.

    Raises:
        ConfigError: a task that no feed serves.
    """

    def __init__(self, feeds: Sequence[Feed], tasks: Mapping[str, float], batch_size: int, seed: int) -> None:
        self._feeds, self._names, self._batch_size, self._seed = feeds, list(tasks), batch_size, seed
        sizes = np.array([[len(feed.indices(name)) for feed in feeds] for name in tasks])
        for name, row in zip(tasks, sizes, strict=True):
            if not row.any():
                raise ConfigError(
                    f"no row of the data serves task {name}",
                    "add a source that does, or leave that task out of the stage (`anytalk data stats` counts them)",
                )
        # A feed without rows for a task takes no share of it.
        weights = np.array([feed.weight for feed in feeds]) * (sizes > 0)
        shares = np.array(list(tasks.values()))[:, None] * weights / weights.sum(axis=1, keepdims=True)
        # A number between 0 and 1 selects the pair whose share it falls into.
        self._bounds = np.cumsum(shares.ravel() / shares.sum())
        self._sizes = sizes.ravel()
        self._counts = np.zeros(shares.size, dtype=np.int64)
        self._next_step = 0
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def draws(self, step: int) -> list[Draw]:
        """Return the rows of a step; steps count from 0."""
        # The counts of rows drawn so far only move forward, so an earlier step starts from zero again.
        if step < self._next_step:
            self._counts[:] = 0
            self._next_step = 0
        while self._next_step < step:
            np.add.at(self._counts, self._pairs(self._next_step), 1)
            self._next_step += 1
        draws = []
        for pair in self._pairs(step).tolist():
            task, feed = divmod(pair, len(self._feeds))
            draws.append(Draw(task, feed, self._example(pair, int(self._counts[pair]))))
            self._counts[pair] += 1
        self._next_step = step + 1
        return draws

    def _pairs(self, step: int) -> np.ndarray:
        """Draw the step's pairs of task and feed, (batch size,) int64."""
        start = np.random.default_rng((self._seed, _DRAWS, step)).random()
        places = (start + np.arange(self._batch_size)) / self._batch_size
        # The last bound may be rounded to just below 1.
        return np.minimum(np.searchsorted(self._bounds, places, side="right"), len(self._bounds) - 1)

    def _example(self, pair: int, position: int) -> int:
        """Return the example at a position in the pair's endless sequence of shuffled epochs."""
        task, feed = divmod(pair, len(self._feeds))
        epoch, place = divmod(position, int(self._sizes[pair]))
        cached, order = self._orders.get(pair, (-1, None))
        if order is None or cached != epoch:
            # Each pair of task and feed gets an order of its own.
            order = self._feeds[feed].order(self._names[task], epoch, seed=self._seed * 1_000_003 + pair)
            self._orders[pair] = (epoch, order)
        return int(order[place])


def split_rows(
    lengths: Sequence[int], *, max_positions: int, max_padding: float, multiple_of: int = 1
) -> list[list[int]]:
    """Group the rows of a step into forward passes of similar length.

    Grouping happens within a step, so it changes neither the mix of a batch nor the order of the data; the loss is a
    mean over the step's tokens, so it doesn't depend on the grouping.

    Args:
        lengths: Columns of each row.
        max_positions: Limit of rows times columns of a pass, including padding; a longer row gets a pass of its own.
        max_padding: Limit of the share of padding in a pass. Halving a pass for `multiple_of` may exceed it in one
            half, never in both together.
        multiple_of: Number of devices, each of which gets the same number of passes.

    Returns:
        Row numbers of each pass, long rows first; device `i` takes the passes ``i::multiple_of``, which are similar in
        size.

    Raises:
        ConfigError: the number of rows isn't a multiple of the devices. If every row needed a pass of its own, some
            devices would get one pass less.
    """
    if len(lengths) % multiple_of:
        raise ConfigError(
            f"a batch of {len(lengths)} rows can't be divided evenly among {multiple_of} devices",
            f"make batch_size of the stage a multiple of {multiple_of}",
        )
    passes: list[list[int]] = []
    used = 0
    for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], r)):
        if passes:
            # Rows come by length, so the first row of a pass is its longest.
            width, rows = lengths[passes[-1][0]], len(passes[-1]) + 1
            fits = width * rows <= max_positions and used + lengths[row] >= (1 - max_padding) * width * rows
            if fits:
                passes[-1].append(row)
                used += lengths[row]
                continue
        passes.append([row])
        used = lengths[row]
    # Halve the pass with the most rows until each device gets as many passes.
    while len(passes) % multiple_of:
        largest = max(range(len(passes)), key=lambda p: (len(passes[p]), -p))
        rows_of = passes.pop(largest)
        half = (len(rows_of) + 1) // 2
        passes[largest:largest] = [rows_of[:half], rows_of[half:]]
    return passes


def padding_share(lengths: Sequence[int], passes: Sequence[Sequence[int]]) -> float:
    """Return the share of positions in all passes that is padding."""
    total = sum(len(rows) * max(lengths[r] for r in rows) for rows in passes)
    return 1.0 - sum(lengths[r] for rows in passes for r in rows) / total
