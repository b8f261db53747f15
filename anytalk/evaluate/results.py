"""What a measure gives: figures, the worst examples, what was left out. Torch-free."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from anytalk.evaluate.stats import Figure


@dataclass
class Result:
    """One measure of a report."""

    label: str  # its name in the report
    kind: str  # which measure it is
    headline: str  # metric meant by a bare measure name
    figures: dict[str, Figure] = field(default_factory=dict)  # metric -> figure; NaN figures are left out
    items: list[dict[str, Any]] = field(default_factory=list)  # one flat mapping per example, in the order of the rows
    worst: list[dict[str, Any]] = field(default_factory=list)  # those of the items that are shown, the worst first
    skipped: list[dict[str, str]] = field(default_factory=list)  # rows that could not be used, with reasons
    notes: list[str] = field(default_factory=list)  # sentences beside the figures
    status: str = "ok"  # `"ok"` or `"failed"`
    reason: str = ""  # why it failed
    plot: str | None = None  # its picture inside the report
    seconds: float = 0.0  # what it took
    load_average: float | None = None  # of the machine at its end (1 minute): times on a busy machine say little
    identity: str = ""  # digest of the talker and of the options, by which an interrupted report goes on

    def metrics(self) -> dict[str, float]:
        """Flat: ``{"asr.wer": 0.125}``."""
        return {f"{self.label}.{name}": figure.value for name, figure in self.figures.items()}

    def as_json(self) -> dict[str, Any]:
        """Return everything but the items, for ``report.json``."""
        data = asdict(self)
        del data["items"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any], items: list[dict[str, Any]]) -> Result:
        figures = {name: Figure(**figure) for name, figure in data["figures"].items()}
        return cls(**{**data, "figures": figures, "items": items})

    def keep(self, **figures: Figure) -> None:
        """Add figures; those without a number are left out."""
        for name, figure in figures.items():
            if math.isfinite(figure.value):
                self.figures[name] = figure

    def pick_worst(self, key: str, count: int, reverse: bool = True) -> None:
        """Show the items with the highest (or lowest) `key`; those that are perfect (0 errors) are not shown."""
        order = sorted(self.items, key=lambda item: float(item[key]), reverse=reverse)
        flawed = [item for item in order if not reverse or float(item[key]) > 0]
        self.worst = flawed[:count]
