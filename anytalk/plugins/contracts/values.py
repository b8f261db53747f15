"""What the parts give to one another: tokenizers, caches, states, tables, streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

from torch import Tensor, nn


class Cache(Protocol):
    """Keys and values of the steps so far; owned by the caller, filled by ``forward``.

    :meth:`crop` to the earlier length also removes what a ``forward`` that raised has written.
    So an error ends only the answer that caused it.
    """

    @property
    def length(self) -> int:
        """Steps held."""

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep only these batch rows, in this order (a row may be named twice: then it is copied)."""

    def crop(self, length: int) -> None:
        """Forget all steps after the first `length`."""


@runtime_checkable
class JoinableCache(Cache, Protocol):
    """A cache whose rows may hold unequally many steps, so that answers come and go in one batch. Optional.

    ``length`` is that of the longest row; each row's steps keep their own positions, and ``crop`` counts them in each
    row. Parts whose caches are not joinable are run once per answer instead.
    """

    def join(self, other: Self) -> None:
        """Add the rows of another cache after these; the other one is used up."""

    def take(self, row: int) -> Self:
        """Return a cache of this row alone; it stays here until :meth:`keep_rows` leaves it out."""


@runtime_checkable
class ForgetfulCache(Cache, Protocol):
    """A cache that can leave out steps from its middle, which keeps long answers from slowing down. Optional."""

    def forget(self, first: int, stop: int) -> None:
        """Leave out the steps from `first` to before `stop`; all others keep their positions, ``length`` shrinks."""


Arithmetic = Literal["fused", "graphs", "packed", "int8"]
"""How the matrices of a decoding step are multiplied; :mod:`anytalk.kernels` describes each way."""

Peaks = dict[nn.Module, Tensor]
"""The largest magnitude of each input, (in,), of each ``nn.Linear``."""


@runtime_checkable
class MakesReady(Protocol):
    """A module that prepares itself for decoding better than :func:`anytalk.kernels.make_ready` can. Optional."""

    def make_ready(self, arithmetic: Arithmetic, peaks: Peaks) -> None:
        """Change the module for inference only; arguments as of :func:`anytalk.kernels.make_ready`."""


@runtime_checkable
class TextTokenizer(Protocol):
    """The backbone's own tokenizer, reduced to what anytalk asks of it."""

    @property
    def eos_id(self) -> int:
        """The id with which the model ends an answer."""

    @property
    def has_chat_template(self) -> bool:
        """Whether :meth:`render_chat` works."""

    def encode(self, text: str) -> list[int]:
        """Return ids of `text`, written by people: markup in it is plain text; nothing is added before or after.

        Half of a surrogate pair is read as U+FFFD.
        """

    def encode_rendered(self, text: str) -> list[int]:
        """Return ids of what :meth:`render_chat` wrote, or a part of it: markup is recognised, nothing is added.

        For text without markup they equal those of :meth:`encode`.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Return text of `ids`, special tokens and ids outside the vocabulary left out."""

    def render_chat(self, messages: Sequence[dict[str, str]], **arguments: Any) -> str:
        """Return the model's chat template as a string, ready for its answer (generation prompt added).

        `arguments` are the template's own, set by ``grid.template``; a template without any may leave them out.

        ``encode_rendered(render_chat(m))`` must equal the base tokenizer's own chat ids.
        """


class BackboneStates(NamedTuple):
    """What a backbone computes for each step. A tuple, because engines that shard parameters look into those only."""

    pre_norm: Tensor  # (B,T,D), before the final norm: the output adapter starts here (paper 3.1)
    # (B,T,D), after the final norm: the text head reads this. The same tensor, if there is no final norm.
    normed: Tensor


NO_TEXT, END_OF_TEXT = -1, -2
"""In the `text` of an output adapter: no token in this step; the answer's text ends in this step."""


@dataclass(frozen=True)
class AudioTables:
    """The audio embedding rows, for heads that share them."""

    codes: Tensor  # (K,C,W)
    specials: Tensor  # (K, audio specials, W)


class CodecStream(ABC):
    """Decodes codes as they come. Everything pushed comes out by :meth:`flush`, sample-exact against offline."""

    @abstractmethod
    def push(self, codes: Tensor) -> Tensor:
        """(1,K,t) frames, t >= 0 -> (1,n) samples that are final; n may be 0."""

    @abstractmethod
    def flush(self) -> Tensor:
        """(1,n): what was held back. The stream is then empty and may be used again."""
