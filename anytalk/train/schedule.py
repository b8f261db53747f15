"""Compute the learning rate of a step."""

import math


def learning_rate(step: int, *, steps: int, peak: float, floor: float, warmup: int) -> float:
    """Return the rate: linear warm-up to `peak`, then half a cosine down to `floor`; `step` counts from 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    span = max(1, steps - 1 - warmup)
    done = min(1.0, (step - warmup) / span)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
