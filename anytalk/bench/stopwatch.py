"""Times the parts of a talker during an answer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from anytalk.model.talker import Talker

STEP_SEGMENTS = ("backbone", "output_adapter", "text_head", "audio_heads", "sampling", "codec", "other")
"""The segments of a step, in the order in which they run."""


@dataclass
class Stopwatch:
    """Adds up seconds by segment."""

    device: str = "cpu"
    seconds: dict[str, float] = field(default_factory=dict)  # seconds of each segment since the last `lap`
    laps: list[dict[str, float]] = field(default_factory=list)  # the same for each lap, which is one step
    _began: float = 0.0

    def start(self) -> None:
        """Clear all times and start the first lap."""
        self.seconds, self.laps = {}, []
        self._began = self.now()

    def now(self) -> float:
        """Return the time in seconds, once a GPU has finished its work."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self) -> None:
        """End a step: ``wall`` is its whole time, ``other`` the part that no segment took."""
        now = self.now()
        wall = now - self._began
        self.laps.append({**self.seconds, "wall": wall, "other": wall - sum(self.seconds.values())})
        self.seconds, self._began = {}, now

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - began

        return timed

    def medians(self) -> dict[str, float]:
        """Return the median of each segment, but the mean of ``codec``, which only some steps run, and of ``wall``."""
        found = {}
        for name in (*STEP_SEGMENTS, "wall"):
            middle = statistics.fmean if name in ("codec", "wall") else statistics.median
            found[name] = middle([lap.get(name, 0.0) for lap in self.laps])
        return found


@contextmanager
def timed_parts(talker: Talker, watch: Stopwatch) -> Iterator[None]:
    """Time a talker's parts in the block, by replacing their methods."""
    model = talker.model
    places: list[tuple[Any, str, str]] = [
        (model.backbone, "forward", "backbone"),
        (model.output_adapter, "forward", "output_adapter"),
        (model, "text_logits", "text_head"),
        (model, "audio_logits", "audio_heads"),
    ]
    for owner, method, segment in places:
        # Set on the instance, where it hides the class's method; `delattr` below shows that again.
        setattr(owner, method, watch.around(segment, getattr(owner, method)))
    try:
        yield
    finally:
        for owner, method, _ in places:
            delattr(owner, method)
