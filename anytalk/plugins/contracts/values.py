"""Defines what parts pass to one another: tokenizers, caches, states, tables, streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

from torch import Tensor, nn


class Cache(Protocol):
    """Holds keys and values of the steps so far; the caller owns it, ``forward`` fills it.

    If a ``forward`` raises, :meth:`crop` to the earlier length removes what it wrote, so an error ends only the answer
    that caused it.
    """

    @property
    def length(self) -> int:
        """Return how many steps the cache holds."""

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep only these batch rows, in this order; a row that is named twice is copied."""

    def crop(self, length: int) -> None:
        """Drop all steps after the first `length`."""


@runtime_checkable
class JoinableCache(Cache, Protocol):
    """A cache whose rows may hold different numbers of steps, so that answers can join and leave a batch; optional.

    ``length`` is that of the longest row. The steps of each row keep their positions, and ``crop`` counts in each row.
    Parts whose caches can't be joined run once for each answer instead.
    """

    def join(self, other: Self) -> None:
        """Append the rows of another cache, which must not be used afterwards."""

    def take(self, row: int) -> Self:
        """Return a cache of this row alone; the row also stays here until :meth:`keep_rows` drops it."""


@runtime_checkable
class ForgetfulCache(Cache, Protocol):
    """A cache that can drop steps from its middle, which keeps long answers from slowing down; optional."""

    def forget(self, first: int, stop: int) -> None:
        """Drop the steps from `first` up to `stop` (exclusive); others keep their positions, ``length`` shrinks."""


Arithmetic = Literal["fused", "graphs", "packed", "int8", "int4"]
"""How the matrices of a decoding step are multiplied; :mod:`anytalk.kernels` describes each way."""

Peaks = dict[nn.Module, Tensor]
"""The largest magnitude of each input, (in,), of every ``nn.Linear``."""


@runtime_checkable
class MakesReady(Protocol):
    """A module that prepares itself for decoding better than :func:`anytalk.kernels.make_ready` can; optional."""

    def make_ready(self, arithmetic: Arithmetic, peaks: Peaks) -> None:
        """Change the module for inference only; the arguments are those of :func:`anytalk.kernels.make_ready`."""


@runtime_checkable
class TextTokenizer(Protocol):
    """Offers what anytalk needs of the backbone's own tokenizer."""

    @property
    def eos_id(self) -> int:
        """Return the id with which the model ends an answer."""

    @property
    def has_chat_template(self) -> bool:
        """Return whether :meth:`render_chat` works."""

    def encode(self, text: str) -> list[int]:
        """Encode text that people wrote: markup in it is plain text, and nothing is added before or after.

        Half of a surrogate pair is encoded as U+FFFD.
        """

    def encode_rendered(self, text: str) -> list[int]:
        """Encode what :meth:`render_chat` wrote, or a part of it: markup is recognised, and nothing is added.

        Text without markup gets the same ids as from :meth:`encode`.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; special tokens and ids outside the vocabulary are left out."""

    def render_chat(self, messages: Sequence[dict[str, str]], **arguments: Any) -> str:
        """Render messages with the model's chat template, up to where its answer begins (generation prompt added).

        `arguments` are the template's own, set by ``grid.template``; a tokenizer may omit them if it takes none. The
        ids of ``encode_rendered(render_chat(messages))`` must equal the base tokenizer's own.
        """


class BackboneStates(NamedTuple):
    """Holds a backbone's output for each step; a tuple, because engines that shard parameters look only into those."""

    pre_norm: Tensor  # (B,T,D), before the final norm: the output adapter starts here (paper 3.1)
    # (B,T,D), after the final norm: the text head reads this. The same tensor, if there is no final norm.
    normed: Tensor


NO_TEXT, END_OF_TEXT = -1, -2
"""Values of the `text` of an output adapter: no token in this step; the answer's text ends in this step."""


@dataclass(frozen=True)
class AudioTables:
    """Holds the audio embeddings, for heads that share them."""

    codes: Tensor  # (K,C,W)
    specials: Tensor  # (K, audio specials, W)


class CodecStream(ABC):
    """Decodes codes as they arrive; all that was pushed comes out by :meth:`flush`, sample-exact against offline."""

    @abstractmethod
    def push(self, codes: Tensor) -> Tensor:
        """Decode the next frames, (1,K,t) with t >= 0 -> (1,n) final samples; n may be 0."""

    @abstractmethod
    def flush(self) -> Tensor:
        """Return the samples held back, (1,n). The stream is then empty and may be used again."""
