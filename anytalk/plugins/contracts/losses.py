"""Defines losses, which a stage adds up: the core has text, audio and distill, a talker's parts may bring others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from anytalk.plugins.contracts.routes import Spoken
    from anytalk.plugins.contracts.values import BackboneStates


class LossRow(Protocol):
    """Describes a row of a training step, laid out for its task."""

    @property
    def tokens(self) -> np.ndarray:
        """Return the grid's tokens, (S,T) int64."""

    @property
    def loss_mask(self) -> np.ndarray:
        """Return which tokens are learnt, (S,T) bool; each is predicted from the column before it."""

    @property
    def heard(self) -> Sequence[Sequence[int]]:
        """Return the text tokens of each clip, in order; none for a clip whose words aren't known."""

    @property
    def has_twin(self) -> bool:
        """Return whether it is spoken, has an answer, and could have been typed as well."""

    def twin(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the same conversation typed: (T',) text tokens, and (T',) bool, which of them are the answer."""


class ForwardPass(Protocol):
    """Computes what losses read of its rows, each value once and only when a loss asks for it.

    Under an engine that shards parameters (`uniform`), a loss must run the same modules in every pass, whatever its
    rows contain: missing input is made up and doesn't count.
    """

    uniform: bool
    device: torch.device
    writes: bool
    """Whether any row writes text; always True if `uniform`."""

    @property
    def features(self) -> tuple[Tensor, Tensor] | None:
        """Return encoder features (clips,F,E) and (clips,) frames; None if no row has sound."""

    @property
    def tokens(self) -> Tensor:
        """Return the tokens of the grids, (B,S,T) int64."""

    @property
    def loss_mask(self) -> Tensor:
        """Return which tokens are learnt, (B,S,T) bool."""

    @property
    def states(self) -> BackboneStates:
        """Return the backbone's states, (B,T,D) each."""

    @property
    def text(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (n,V) logits of the tokens in the text loss, (n,) the tokens, -100 if made up, and (n,) their rows."""

    @property
    def spoken(self) -> Spoken | None:
        """Return what the output adapter made of the answers; None if no row speaks."""


class Loss(ABC):
    """Computes one loss of a stage: the mean of something over a step's tokens."""

    name: str  # its name in a stage, unique in a talker
    shares: Sequence[float] = (1.0,)  # the weights of its streams; most losses have one

    @property
    def streams(self) -> list[str]:
        """Return the names of its sums: its own name, numbered if there are several."""
        return [self.name] if len(self.shares) == 1 else [f"{self.name}{k}" for k in range(len(self.shares))]

    @abstractmethod
    def counts(self, row: LossRow) -> Sequence[int]:
        """Return how many tokens of a row each stream's mean is taken over."""

    def prepare(self, rows: Sequence[LossRow]) -> list[Tensor]:
        """Return what :meth:`sums` needs besides a forward pass of these rows; runs ahead of time, on the CPU."""
        return []

    @abstractmethod
    def sums(self, line: ForwardPass, prepared: Sequence[Tensor]) -> Tensor:
        """Return the sum of each stream over the tokens of a forward pass, (streams,); `prepared` is on its device."""
