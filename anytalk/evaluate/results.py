"""What a measure gives: figures, the worst examples, what was left out. Torch-free."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from anytalk.evaluate.stats import Figure


@dataclass
class Result:
    """One measure of a report.

    Attributes:
        label: Its name in the report.
        kind: Which measure it is.
        headline: Metric that a bare measure name stands for.
        figures: Metric -> figure; NaN figures are left out.
        items: One flat mapping per example, in the order of the rows.
        worst: Those of the items that are shown, the worst first.
        skipped: Rows that could not be used, with reasons.
        notes: Sentences beside the figures.
        status: ``"ok"`` or ``"failed"``.
        reason: Why it failed.
        plot: Its picture inside the report.
        seconds: What it took.
        load_average: Of the machine at its end (1 minute): times on a busy machine say little.
        identity: Digest of the talker and of the options, by which an interrupted report goes on.
    """

    label: str
    kind: str
    headline: str
    figures: dict[str, Figure] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    status: str = "ok"
    reason: str = ""
    plot: str | None = None
    seconds: float = 0.0
    load_average: float | None = None
    identity: str = ""

    def metrics(self) -> dict[str, float]:
        """Flat: ``{"asr.wer": 0.125}``."""
        return {f"{self.label}.{name}": figure.value for name, figure in self.figures.items()}

    def as_json(self) -> dict[str, Any]:
        """Everything but the items, for ``report.json``."""
        data = asdict(self)
        del data["items"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any], items: list[dict[str, Any]]) -> Result:
        """The opposite of :meth:`as_json`."""
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
