"""Freezing by naming parts: exactly the named ones train, all others stand still."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from anytalk.errors import ConfigError, did_you_mean
from anytalk.model.talk_model import PART_NAMES, TalkModel


@dataclass(frozen=True)
class PartReport:
    """Parameters of one part."""

    name: str
    trainable: int
    total: int


def apply_freeze(model: TalkModel, train: Iterable[str]) -> list[PartReport]:
    """Let exactly the named parts train; frozen parts are put in eval mode and lose their gradients.

    Returns:
        One report per part, in the order of the line.

    Raises:
        ConfigError: no name, a name that is no part, or a part that this talker doesn't have or that has no parameters.
    """
    wanted, parts = set(train), model.parts()
    if not wanted:
        raise ConfigError("a stage trains no part", f"name some of: {', '.join(parts)}")
    for name in sorted(wanted):
        if name not in PART_NAMES:
            raise ConfigError(
                f"unknown part '{name}'{did_you_mean(name, list(PART_NAMES))}", f"parts: {', '.join(PART_NAMES)}"
            )
        if name not in parts or not _count(parts[name]):
            raise ConfigError(f"this talker's part '{name}' has nothing to train", f"it has: {', '.join(parts)}")
    report = []
    for name, part in parts.items():
        part.train(name in wanted)
        for parameter in part.parameters():
            parameter.requires_grad_(name in wanted)
            if name not in wanted:
                parameter.grad = None
        total = _count(part)
        report.append(PartReport(name, total if name in wanted else 0, total))
    return report


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())
