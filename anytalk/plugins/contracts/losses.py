"""Losses: what a stage adds up, brought by the core (text, audio, distill) and by the parts of a talker."""

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
    """A row of a step, laid out for its task."""

    @property
    def tokens(self) -> np.ndarray:
        """(S,T) int64."""

    @property
    def loss_mask(self) -> np.ndarray:
        """(S,T) bool: tokens that are learnt, each predicted from the column before it."""

    @property
    def heard(self) -> Sequence[Sequence[int]]:
        """Text tokens of each of its clips, in order; none for a clip whose words aren't known."""

    @property
    def has_twin(self) -> bool:
        """Whether it is spoken, is answered, and could have been typed as well."""

    def twin(self) -> tuple[np.ndarray, np.ndarray]:
        """The same conversation typed: (T',) text tokens with the answer, (T',) bool, which of them are the answer."""


class ForwardPass(Protocol):
    """What a forward pass computes of its rows: each piece once, and only when a loss asks for it.

    Under an engine that shards parameters (`uniform`) a loss must run the same modules in every pass, whatever its rows
    hold: what isn't there is then made up, and counts nothing.
    """

    uniform: bool
    device: torch.device
    writes: bool
    """Whether any row writes text (where `uniform`: always)."""

    @property
    def features(self) -> tuple[Tensor, Tensor] | None:
        """(clips,F,E) encoder features and (clips,) frames; None where no row hears anything."""

    @property
    def tokens(self) -> Tensor:
        """(B,S,T) int64."""

    @property
    def loss_mask(self) -> Tensor:
        """(B,S,T) bool."""

    @property
    def states(self) -> BackboneStates:
        """The backbone's, (B,T,D) each."""

    @property
    def text(self) -> tuple[Tensor, Tensor, Tensor]:
        """(n,V) logits of the tokens in the text's loss, (n,) the tokens, -100 for a made-up one, (n,) their rows."""

    @property
    def spoken(self) -> Spoken | None:
        """What the output adapter made of the answers; None where no row speaks."""


class Loss(ABC):
    """One loss of a stage: the mean of something over a step's tokens."""

    name: str  # what a stage calls it, unique in a talker
    shares: Sequence[float] = (1.0,)  # how its streams are weighed; most losses have one

    @property
    def streams(self) -> list[str]:
        """Names of its sums: its own, or its own with a number where there are several."""
        return [self.name] if len(self.shares) == 1 else [f"{self.name}{k}" for k in range(len(self.shares))]

    @abstractmethod
    def counts(self, row: LossRow) -> Sequence[int]:
        """Return how many tokens of a row each stream is the mean of."""

    def prepare(self, rows: Sequence[LossRow]) -> list[Tensor]:
        """Return what :meth:`sums` needs beside a forward pass of these rows; made ahead of time, on the CPU."""
        return []

    @abstractmethod
    def sums(self, line: ForwardPass, prepared: Sequence[Tensor]) -> Tensor:
        """(streams,) sums over the tokens of a forward pass; `prepared` is on its device."""
