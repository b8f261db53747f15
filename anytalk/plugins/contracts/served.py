"""Defines the contract of a language model that is served elsewhere: only its text arrives, piece by piece."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

import torch
from torch import Tensor, nn

from anytalk.errors import AnytalkError, ConfigError
from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts.parts import Backbone
from anytalk.plugins.contracts.values import BackboneStates, Cache
from anytalk.plugins.piece_tokenizer import VOCAB_SIZE, PieceTokenizer


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """Holds what a served model is asked to write."""

    # The conversation, each message with `role` and `content`; the last one is the user's.
    messages: Sequence[Mapping[str, str]]
    temperature: float = 0.0  # 0 takes the likeliest token
    top_p: float = 1.0  # 1 is off
    max_tokens: int = 512  # longest useful answer, in the server's tokens
    seed: int | None = None  # seed of the sampling; None leaves it to the server


class TextStream:
    """Passes text from the thread that receives it to the thread that speaks it.

    Args:
        cancel: Called once by :meth:`close`, from any thread, when nobody wants the rest.

    Attributes:
        wake: Called in the receiving thread when there is something new to take.
        error: Why the text ended too early; None if it didn't.
        was_cut: Whether the model was stopped by its limit of tokens.
    """

    def __init__(self, cancel: Callable[[], object] = lambda: None) -> None:
        self.wake: Callable[[], None] = lambda: None
        self.error: AnytalkError | None = None
        self.was_cut = False
        self._cancel = cancel
        self._lock = threading.Lock()
        self._pieces: list[str] = []
        self._thoughts: list[str] = []
        self._is_ended = False

    def put(self, text: str) -> None:
        """Add received text; it is ignored after the end."""
        with self._lock:
            if not self._is_ended:
                self._pieces.append(text)
        self.wake()

    def think(self, text: str) -> None:
        """Add what the model thinks before it answers, which is shown apart from the text and never spoken."""
        with self._lock:
            self._thoughts.append(text)

    def take_thoughts(self) -> str:
        """Return the thoughts that have come since the last call."""
        with self._lock:
            text, self._thoughts = "".join(self._thoughts), []
            return text

    def end(self, error: AnytalkError | None = None, was_cut: bool = False) -> None:
        """Mark the end of the text; only the first call counts."""
        with self._lock:
            if not self._is_ended:
                self._is_ended, self.error, self.was_cut = True, error, was_cut
        self.wake()

    def take(self) -> tuple[str, bool]:
        """Return what has come since the last call, and whether that was all."""
        with self._lock:
            text, self._pieces = "".join(self._pieces), []
            return text, self._is_ended

    def close(self) -> None:
        """Cancel the rest of the text."""
        with self._lock:
            was_ended, self._is_ended = self._is_ended, True
        # Outside the lock, which isn't reentrant: cancelling may end this stream.
        if not was_ended:
            self._cancel()


class ServedBackbone(Backbone):
    """A language model that runs elsewhere: it writes, and a voice that reads only text can speak what it writes.

    Whatever needs its weights, states or logits raises ConfigError.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = PieceTokenizer()
        # Backbones are asked for the device of their first parameter, so there must be one; it is empty.
        self.nothing = nn.Parameter(torch.zeros(0), requires_grad=False)

    @abstractmethod
    def answer(self, request: TextRequest) -> TextStream:
        """Send a request and return at once; an error ends the stream and is found in ``TextStream.error``."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Return how messages name it: which model, and where."""

    def check(self) -> None:
        """Check that the model can be reached; called once, when a talker is made of it.

        Raises:
            AnytalkError: it can't be reached, or it refuses.
        """

    @property
    def width(self) -> int:
        """Return 1, since nothing is known of its states."""
        return 1

    @property
    def text_vocab_size(self) -> int:
        """Return how many pieces of text there can be."""
        return VOCAB_SIZE

    def embed_text(self, ids: Tensor) -> Tensor:
        """Return zeros, (B,T) -> (B,T,1)."""
        return self.nothing.new_zeros(*ids.shape, 1)

    def new_cache(self, batch_size: int, max_steps: int) -> Cache:
        """Return a cache that stays empty."""
        return KeyValueCache(batch_size, max_steps)

    def forward(self, embeds: Tensor, cache: Cache | None = None) -> BackboneStates:
        self._refuse()

    def text_logits(self, normed: Tensor) -> Tensor:
        self._refuse()

    def make_blocks(self, num_blocks: int, init: str) -> nn.Module:
        self._refuse()

    def save_native(self, folder: Path) -> None:
        self._refuse()

    @classmethod
    def load_native(cls, folder: Path, context: BuildContext) -> Self:
        cls._refuse()

    @classmethod
    def _refuse(cls) -> NoReturn:
        raise ConfigError(
            "this talker's language model is served elsewhere and sends only text, no weights, states or logits",
            "attach the model's own files for that; to speak, it needs a voice that reads text alone",
        )
