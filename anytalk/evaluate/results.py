"""Hold what a measure gives: figures, the worst examples, and skipped rows. Doesn't import torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from anytalk.evaluate.stats import Figure


@dataclass
class Result:
    """Holds one measure of a report."""

    label: str  # its name in the report
    kind: str  # kind of the measure
    headline: str  # its main metric
    figures: dict[str, Figure] = field(default_factory=dict)  # by metric; figures that are NaN are left out
    items: list[dict[str, Any]] = field(default_factory=list)  # one flat mapping per example, in row order
    worst: list[dict[str, Any]] = field(default_factory=list)  # the items that are shown, the worst first
    skipped: list[dict[str, str]] = field(default_factory=list)  # rows that can't be used, with reasons
    transcriber: str = ""  # title of the transcriber if it wrote down the same rows
    notes: list[str] = field(default_factory=list)  # sentences that belong to the figures
    status: str = "ok"  # `"ok"` or `"failed"`
    reason: str = ""  # why it failed
    plot: str | None = None  # file name of its plot
    seconds: float = 0.0  # time that it took
    load_average: float | None = None  # at its end, over 1 minute: times on a busy machine say little
    identity: str = ""  # digest of talker and options; a report resumes if it is the same

    def metrics(self) -> dict[str, float]:
        """Return the figures by full name: ``{"asr.wer": 0.125}``."""
        return {f"{self.label}.{name}": figure.value for name, figure in self.figures.items()}

    def as_json(self) -> dict[str, Any]:
        """Return everything except the items, for ``report.json``."""
        data = asdict(self)
        del data["items"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any], items: list[dict[str, Any]]) -> Result:
        figures = {name: Figure(**figure) for name, figure in data["figures"].items()}
        return cls(**{**data, "figures": figures, "items": items})

    def keep(self, **figures: Figure) -> None:
        """Add figures, except those that are NaN."""
        for name, figure in figures.items():
            if math.isfinite(figure.value):
                self.figures[name] = figure

    def pick_worst(self, key: str, count: int, reverse: bool = True) -> None:
        """Choose the items to show by the highest (or lowest) `key`; items with 0 errors are never shown."""
        order = sorted(self.items, key=lambda item: float(item[key]), reverse=reverse)
        flawed = [item for item in order if not reverse or float(item[key]) > 0]
        self.worst = flawed[:count]
