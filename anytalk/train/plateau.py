"""Detect from a stage's log that it has stopped learning, and suggest what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LOOKS = 5
"""Held-out measurements without a new lowest loss that make a plateau."""

LEAST_GAIN = 0.002
"""Relative decrease that counts as a lower loss."""

_TRAINING_GAIN = 0.02  # training losses scatter more, because each is of other rows
_LOW_RATE = 0.1  # share of the peak rate; below it the schedule is nearly at its end


def plateau(stage: str, peak_rate: float, log: Sequence[Mapping[str, float]]) -> str | None:
    """Return a sentence about a held-out loss that no longer falls, with advice; None if it still falls.

    Args:
        stage: Name of the stage.
        peak_rate: Its highest learning rate.
        log: Its log; entries with ``held_out.loss`` are held-out measurements.
    """
    looks = [entry for entry in log if "held_out.loss" in entry]
    if len(looks) <= LOOKS:
        return None
    before, since = looks[:-LOOKS], looks[-LOOKS:]
    best = min(before, key=lambda entry: entry["held_out.loss"])
    if min(entry["held_out.loss"] for entry in since) < (1 - LEAST_GAIN) * best["held_out.loss"]:
        return None
    found = (
        f"stage '{stage}' has stopped learning: the held-out loss was lowest at step {best['step']:.0f} "
        f"({best['held_out.loss']:.3f}) and is {since[-1]['held_out.loss']:.3f} at step {since[-1]['step']:.0f}"
    )
    first, last = _training_loss(log, before[-1]["step"])
    if last < (1 - _TRAINING_GAIN) * first:
        return (
            f"{found}, while the training loss still falls ({first:.3f} to {last:.3f}): it memorises its rows. "
            f"Add rows, end the stage there (--set {stage}.steps={best['step']:.0f}), or train fewer parts or LoRA"
        )
    if since[-1].get("learning_rate", peak_rate) < _LOW_RATE * peak_rate:
        return (
            f"{found}; the training loss does not fall either, and the learning rate has nearly reached its floor: the "
            f"stage is done, and could have ended there (--set {stage}.steps={best['step']:.0f})"
        )
    return (
        f"{found}; the training loss does not fall either. Look at rows (anytalk data preview), try half or double "
        f"--set {stage}.learning_rate={peak_rate:g}, or train more parts"
    )


def _training_loss(log: Sequence[Mapping[str, float]], step: float) -> tuple[float, float]:
    """Return the mean training losses of the first and of the second half of the steps after `step`."""
    losses = [entry["loss"] for entry in log if entry["step"] > step and "loss" in entry]
    half = max(1, len(losses) // 2)
    first, last = losses[:half], losses[-half:]
    return sum(first) / max(1, len(first)), sum(last) / max(1, len(last))
