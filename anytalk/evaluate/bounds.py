"""``--fail-if 'text_retention<0.99'``: bounds that a report must keep. Torch-free."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anytalk.errors import ConfigError, UnknownNameError, did_you_mean
from anytalk.evaluate.config import Suite
from anytalk.evaluate.metrics import METRICS, format_value

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_BOUND = re.compile(r"^\s*([a-z][a-z0-9_.]*)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*(%?)\s*$")


@dataclass(frozen=True)
class Bound:
    """A condition under which the command fails."""

    text: str  # as it was written
    metric: str  # full name, measure in front
    comparison: str  # `"<"`, `"<="`, `">"` or `">="`
    limit: float  # number on the right
    unit: str  # of the metric

    def broken_by(self, metrics: Mapping[str, float]) -> str | None:
        """Say why the command fails; None when it doesn't. A missing metric breaks every bound."""
        value = metrics.get(self.metric)
        if value is None:
            return f"--fail-if '{self.text}': {self.metric} was not measured"
        if not _OPERATORS[self.comparison](value, self.limit):
            return None
        return (
            f"--fail-if '{self.text}': {self.metric} is {value:.6g} ({format_value(value, self.unit)}), "
            f"which is {self.comparison} {self.limit:g}"
        )


def parse_bounds(texts: Sequence[str], suite: Suite) -> list[Bound]:
    """Parse bounds before anything is measured.

    Args:
        texts: ``NAME OP NUMBER`` each; NAME is a measure (then its headline metric counts) or ``measure.metric``,
            NUMBER may end in %.
        suite: What will be measured.

    Raises:
        ConfigError: a text that is no bound.
        UnknownNameError: a metric that this suite does not give.
    """
    return [_parse(text, suite) for text in texts]


def _parse(text: str, suite: Suite) -> Bound:
    found = _BOUND.match(text)
    try:
        limit = float(found[3]) / (100 if found[4] else 1) if found else None
    except ValueError:
        limit = None
    if found is None or limit is None:
        raise ConfigError(f"--fail-if '{text}' is no bound", "write NAME<NUMBER, e.g. --fail-if 'text_retention<0.99'")
    measures = {measure.label: measure for measure in suite.measures}
    name = found[1]
    full = f"{name}.{measures[name].headline}" if name in measures else name
    known = suite.metric_names()
    if full not in known:
        near = did_you_mean(full, [*known, *measures])
        raise UnknownNameError(
            f"--fail-if '{text}': this suite measures no '{full}'{near}", f"it measures: {', '.join(known)}"
        )
    label, _, metric = full.partition(".")
    return Bound(text.strip(), full, found[2], limit, METRICS[measures[label].kind][metric].unit)
