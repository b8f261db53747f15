"""Compute figures with their uncertainty: means, ratios, percentiles, bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Figure:
    """Holds one measured number."""

    value: float
    n: int  # number of examples
    low: float | None = None  # lower end of the 95 % interval, if there is one
    high: float | None = None  # upper end


@dataclass(frozen=True)
class Bootstrap:
    """Computes intervals as percentiles of the figure over examples resampled with replacement (Efron 1979)."""

    samples: int = 1000  # number of resamplings; 0 gives no intervals
    seed: int = 0  # seed of the resampling, the same for each figure

    def mean(self, values: Sequence[float]) -> Figure:
        """Return the mean of one number per example; NaN if there are none."""
        return self.ratio(values, [1.0] * len(values))

    def ratio(self, above: Sequence[float], below: Sequence[float]) -> Figure:
        """Return the ratio of two sums over examples, such as word errors over words.

        Examples are resampled as a whole, so each numerator stays with its denominator.

        Args:
            above: Numerator of each example.
            below: Denominator of each example; if they sum to 0, the figure is the sum of the numerators.
        """
        top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
        if not len(top):
            return Figure(math.nan, 0)
        value = float(top.sum() / (bottom.sum() or 1.0))
        if self.samples == 0 or len(top) < 2:
            return Figure(value, len(top))
        drawn = np.random.default_rng(self.seed).integers(0, len(top), (self.samples, len(top)))
        sums = bottom[drawn].sum(axis=1)
        ratios = top[drawn].sum(axis=1) / np.where(sums == 0, 1.0, sums)
        low, high = np.percentile(ratios, [2.5, 97.5])
        return Figure(value, len(top), float(low), float(high))

    def percentile(self, values: Sequence[float], percent: float) -> Figure:
        """Return a percentile of one number per example, interpolated linearly; NaN if there are none."""
        array = np.asarray(values, dtype=np.float64)
        if not len(array):
            return Figure(math.nan, 0)
        value = float(np.percentile(array, percent))
        if self.samples == 0 or len(array) < 2:
            return Figure(value, len(array))
        drawn = np.random.default_rng(self.seed).integers(0, len(array), (self.samples, len(array)))
        low, high = np.percentile(np.percentile(array[drawn], percent, axis=1), [2.5, 97.5])
        return Figure(value, len(array), float(low), float(high))

    def total(self, values: Sequence[float]) -> Figure:
        """Return the sum of one number per example, without an interval."""
        return Figure(float(sum(values)), len(values))
