"""Which examples and tasks make up an optimizer step: a pure function of the seed and the step's number.

No state has to be saved and none can be lost: a run that is resumed at a step, with any number of loader workers or
devices, sees exactly what it would have seen without the interruption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anytalk.data.feeds import Feed
from anytalk.errors import ConfigError

_DRAWS = 7919
"""Keeps the seeds of the draws apart from those of the epochs."""


@dataclass(frozen=True)
class Draw:
    """One row of a step: a task, the feed it is drawn from, and the example's index there."""

    task: int
    feed: int
    index: int


class Mixture:
    """Draws rows. Tasks by their weights, within a task feeds by theirs, within a feed epoch after epoch.

    Shares are kept in *every* batch, to within one row (systematic sampling with a random start), not only on average.

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
        weights = np.array([feed.weight for feed in feeds]) * (sizes > 0)
        shares = np.array(list(tasks.values()))[:, None] * weights / weights.sum(axis=1, keepdims=True)
        self._bounds = np.cumsum(shares.ravel() / shares.sum())
        self._sizes = sizes.ravel()
        self._counts = np.zeros(shares.size, dtype=np.int64)
        self._next_step = 0
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def draws(self, step: int) -> list[Draw]:
        """Return the rows of a step, counted from 0."""
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
        """(batch size,) pairs of task and feed."""
        start = np.random.default_rng((self._seed, _DRAWS, step)).random()
        places = (start + np.arange(self._batch_size)) / self._batch_size
        return np.minimum(np.searchsorted(self._bounds, places, side="right"), len(self._bounds) - 1)

    def _example(self, pair: int, position: int) -> int:
        """Return the example at a position of a pair's endless sequence of epochs."""
        task, feed = divmod(pair, len(self._feeds))
        epoch, place = divmod(position, int(self._sizes[pair]))
        cached, order = self._orders.get(pair, (-1, None))
        if order is None or cached != epoch:
            order = self._feeds[feed].order(self._names[task], epoch, seed=self._seed * 1_000_003 + pair)
            self._orders[pair] = (epoch, order)
        return int(order[place])


def split_rows(
    lengths: Sequence[int], *, max_positions: int, max_padding: float, multiple_of: int = 1
) -> list[list[int]]:
    """Cut the rows of a step into forward passes of rows of like length.

    Bucketing happens within a step, by columns and not by rows, so it neither disturbs the mix of a batch nor the order
    of the data; since the loss is a mean over the step's tokens, where the cuts fall doesn't change it.

    Args:
        lengths: Columns of each row.
        max_positions: Most rows times columns, padding counted, of one pass; a longer row gets a pass of its own.
        max_padding: Greatest share of a pass that may be padding (halving passes for `multiple_of` may raise it in one
            half, never in the whole).
        multiple_of: Number of devices: each gets as many passes.

    Returns:
        Row numbers of each pass, long rows first; passes `i::multiple_of` are those of device `i`, and like in size.

    Raises:
        ConfigError: a number of rows that is no multiple of the devices; were each row too long to share a pass, some
            devices would have one pass less.
    """
    if len(lengths) % multiple_of:
        raise ConfigError(
            f"a batch of {len(lengths)} rows can't be shared by {multiple_of} devices evenly",
            f"make batch_size of the stage a multiple of {multiple_of}",
        )
    passes: list[list[int]] = []
    used = 0
    for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], r)):
        if passes:
            width, rows = lengths[passes[-1][0]], len(passes[-1]) + 1
            fits = width * rows <= max_positions and used + lengths[row] >= (1 - max_padding) * width * rows
            if fits:
                passes[-1].append(row)
                used += lengths[row]
                continue
        passes.append([row])
        used = lengths[row]
    while len(passes) % multiple_of:
        largest = max(range(len(passes)), key=lambda p: (len(passes[p]), -p))
        rows_of = passes.pop(largest)
        half = (len(rows_of) + 1) // 2
        passes[largest:largest] = [rows_of[:half], rows_of[half:]]
    return passes


def padding_share(lengths: Sequence[int], passes: Sequence[Sequence[int]]) -> float:
    """Return share of the positions of all passes that is padding."""
    total = sum(len(rows) * max(lengths[r] for r in rows) for rows in passes)
    return 1.0 - sum(lengths[r] for rows in passes for r in rows) / total
