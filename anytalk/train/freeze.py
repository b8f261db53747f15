"""Freeze a model by part names: the named parts train, all others are frozen."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from anytalk.errors import ConfigError, did_you_mean
from anytalk.model.talk_model import PART_NAMES, TalkModel
from anytalk.plugins.contracts import ServedBackbone
from anytalk.train.config import LoraConfig
from anytalk.train.lora import add_lora, is_lora


@dataclass(frozen=True)
class PartReport:
    """Counts the parameters of one part."""

    name: str
    trainable: int
    total: int


def apply_freeze(
    model: TalkModel, train: Iterable[str], lora: Mapping[str, LoraConfig] | None = None
) -> list[PartReport]:
    """Make exactly the named parts trainable; frozen parts are put in eval mode and their gradients are dropped.

    Args:
        model: The model, changed in place.
        train: Part names, or ``part:pattern`` for some of a part's parameters (shell-style, matched with their names).
        lora: Parts of `train` that get low-rank updates; only these train, the weights are frozen.

    Returns:
        One report per part, in the order of :meth:`TalkModel.parts`; updates count as parameters of their part.

    Raises:
        ConfigError: a model that is served elsewhere, no name, an unknown part, a pattern that matches nothing, or a
            part that this talker doesn't have or that has no parameters.
    """
    if isinstance(model.backbone, ServedBackbone):
        raise ConfigError(
            f"this talker can't be trained: its language model, {model.backbone.title}, is served elsewhere and sends "
            "only text",
            "attach the model's own files to train on it; a voice may be trained on another model",
        )
    parts = model.parts()
    patterns = _patterns(list(train), parts)
    for name, config in (lora or {}).items():
        add_lora(parts[name], config, name)
    report = []
    for name, part in parts.items():
        part.train(name in patterns)
        trainable = 0
        for key, parameter in part.named_parameters():
            low_rank = name in (lora or {})
            moves = any(fnmatchcase(key, p) for p in patterns.get(name, ())) and (not low_rank or is_lora(key))
            parameter.requires_grad_(moves)
            if moves:
                trainable += parameter.numel()
            else:
                parameter.grad = None
        report.append(PartReport(name, trainable, _count(part)))
    return report


def without_encoder(model: TalkModel) -> TalkModel:
    """Return a view of the model without its encoder, for stages that keep the encoder frozen."""
    # nn.Module keeps its parts in _modules; a new mapping leaves the original model whole.
    bare = copy.copy(model)
    bare._modules = {**model._modules, "encoder": None}
    return bare


def _patterns(train: list[str], parts: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """Map each part to the patterns of its trainable parameters, after checking both."""
    if not train:
        raise ConfigError("a stage trains no part", f"name some of: {', '.join(parts)}")
    found: dict[str, list[str]] = {}
    for entry in sorted(train):
        name, colon, pattern = entry.partition(":")
        if name not in PART_NAMES:
            raise ConfigError(
                f"unknown part '{name}'{did_you_mean(name, list(PART_NAMES))}", f"parts: {', '.join(PART_NAMES)}"
            )
        if name not in parts or not _count(parts[name]):
            raise ConfigError(f"this talker's part '{name}' has nothing to train", f"it has: {', '.join(parts)}")
        keys = [key for key, _ in parts[name].named_parameters()]
        if colon and not any(fnmatchcase(key, pattern) for key in keys):
            raise ConfigError(
                f"'{entry}' matches no parameter of the part '{name}'",
                f"its parameters are called like: {', '.join(keys[:3])} ...",
            )
        found.setdefault(name, []).append(pattern if colon else "*")
    return found


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())
