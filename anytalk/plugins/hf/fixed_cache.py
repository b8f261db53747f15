"""Keys and values in memory that is laid out once: no step allocates, none copies what came before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anytalk.errors import ConfigError
from anytalk.plugins.hf.attention import Near


class FixedCache:
    """Fulfils :class:`anytalk.plugins.contracts.Cache` with room for a stated number of steps.

    Memory: ``2 * layers * rows * heads * max_steps * head width * bytes per value``; for Qwen2-0.5B in float32 and
    2,048 steps 50 MB a row, in bfloat16 25 MB. It is reserved at once and touched as steps come.

    Attributes:
        store: (layers, 2, B, H, max_steps, w): keys, then values, of each layer.
        length: Steps held.
        forgotten: Steps that were left out of the middle: the next one's position is ``length + forgotten``.
        shared: Steps in front that are the same in all rows: what one row held when it was copied.
        near: A second layout of what is held, for single steps; whoever uses it makes it (:mod:`.attention`).
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        max_steps: int,
        head_width: int,
        like: Tensor,
    ) -> None:
        """Reserve the memory.

        Args:
            num_layers: Layers that remember.
            batch_size: B.
            num_heads: H, key and value heads.
            max_steps: Most steps that can be held.
            head_width: w.
            like: A tensor of the wanted dtype and device.
        """
        self.store = like.new_empty(num_layers, 2, batch_size, num_heads, max_steps, head_width)
        self.length = 0
        self.forgotten = 0
        self._first_forgotten = 0
        self.shared = 0
        self.near: Near | None = None

    @property
    def max_steps(self) -> int:
        """Steps there is room for."""
        return int(self.store.shape[4])

    @property
    def num_bytes(self) -> int:
        """Memory reserved."""
        return self.store.numel() * self.store.element_size()

    def reserve(self, steps: int) -> None:
        """Count more steps as held; their keys and values are then written layer by layer.

        Raises:
            ConfigError: no room for them.
        """
        if self.length + steps > self.max_steps:
            raise ConfigError(
                f"{self.length + steps} steps don't fit into a cache of {self.max_steps}",
                "ask for a cache with more steps: a prompt and its answer have to fit",
            )
        self.length += steps

    def pretend(self, steps: int) -> None:
        """Hold noise for more steps, as if they had been read: how a late step is timed without reading so much."""
        self.reserve(steps)
        self.near = None
        self.store[..., self.length - steps : self.length, :].normal_()

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these batch rows, in this order; a row that is named twice is copied."""
        rows = list(rows)
        self.near = None
        self.shared = self.length if len(set(rows)) == 1 else self.shared
        if rows == list(range(rows[0], rows[0] + len(rows))) and rows[-1] < self.store.shape[2]:
            self.store = self.store[:, :, rows[0] : rows[0] + len(rows)]
            return
        kept = self.store.new_empty((*self.store.shape[:2], len(rows), *self.store.shape[3:]))
        held = self.store[..., : self.length, :]
        kept[..., : self.length, :] = held[:, :, torch.tensor(rows, device=held.device)]
        self.store = kept

    def crop(self, length: int) -> None:
        """Forget all steps after the first `length`."""
        self.near, self.length = None, min(self.length, length)
        self.shared = min(self.shared, self.length)
        if self.length <= self._first_forgotten:
            self.forgotten = 0

    def forget(self, first: int, stop: int) -> None:
        """Leave out the steps from `first` to before `stop`; all others keep their positions.

        Raises:
            ValueError: others were left out elsewhere before: one gap is all that positions are kept for.
        """
        if first == stop:
            return
        if self.forgotten and first != self._first_forgotten:
            raise ValueError(f"steps behind {self._first_forgotten} are left out already, not behind {first}")
        self.near, self.shared = None, min(self.shared, first)
        for layer in self.store:  # one at a time: what moves is copied, since it may overlap
            layer[..., first : first + self.length - stop, :] = layer[..., stop : self.length, :].clone()
        self.length -= stop - first
        self.forgotten += stop - first
        self._first_forgotten = first
