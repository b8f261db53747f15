"""A plugin that brings a loss: its output adapter is to keep its states small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anytalk.plugins import Component, hookimpl
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import BackboneAdapter, BackboneStates, Cache, ForwardPass, Loss, LossRow


@hookimpl
def register_output_adapters() -> list[Component]:
    return [Component("calm", "calm_plugin:CalmAdapter", "scales the backbone's states")]


class CalmAdapter(BackboneAdapter):
    """One gain for each unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> CalmAdapter:
        return cls(context.need_backbone().width)

    @property
    def width(self) -> int:
        return len(self.gain)

    def new_cache(self, batch_size: int, max_steps: int) -> None:
        return None

    def forward(self, states: BackboneStates, cache: Cache | None = None) -> Tensor:
        return states.normed * self.gain

    def losses(self) -> Sequence[Loss]:
        return [CalmLoss(self)]


class CalmLoss(Loss):
    """The mean square of the scaled states of text tokens."""

    name = "calm"

    def __init__(self, adapter: CalmAdapter) -> None:
        self._adapter = adapter

    def counts(self, row: LossRow) -> list[int]:
        return [int(row.loss_mask[-1].sum())]

    def sums(self, line: ForwardPass, prepared: Sequence[Tensor]) -> Tensor:
        states = line.states.normed[:, :-1][line.loss_mask[:, -1, 1:]]
        return (states.detach() * self._adapter.gain).square().mean(dim=-1).sum()[None]
