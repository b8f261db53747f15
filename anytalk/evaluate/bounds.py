"""Parse and check bounds that a report must keep: ``--fail-if 'text_retention<0.99'``. Doesn't import torch."""

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
    """Holds a condition under which the command fails."""

    text: str  # as the user wrote it
    metric: str  # full name, `measure.metric`
    comparison: str  # `"<"`, `"<="`, `">"` or `">="`
    limit: float  # the number on the right
    unit: str  # unit of the metric

    def broken_by(self, metrics: Mapping[str, float]) -> str | None:
        """Return why the command fails, or None if it doesn't; a metric that wasn't measured breaks every bound."""
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
        texts: Bounds as ``NAME OP NUMBER``. NAME is a measure, for its headline metric, or ``measure.metric``; NUMBER
            may end in %.
        suite: The suite that will be measured.

    Raises:
        ConfigError: a text that isn't a bound.
        UnknownNameError: a metric that this suite doesn't measure.
    """
    return [_parse(text, suite) for text in texts]


def _parse(text: str, suite: Suite) -> Bound:
    found = _BOUND.match(text)
    # The pattern also matches texts that aren't numbers, such as "1-".
    try:
        limit = float(found[3]) / (100 if found[4] else 1) if found else None
    except ValueError:
        limit = None
    if found is None or limit is None:
        raise ConfigError(
            f"--fail-if '{text}' is not a bound", "write NAME<NUMBER, e.g. --fail-if 'text_retention<0.99'"
        )
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
