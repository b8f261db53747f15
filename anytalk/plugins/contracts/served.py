"""The contract of a language model that is served elsewhere: only its text comes here, piece by piece."""

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
    """What a served model is asked to write."""

    # The conversation, each with `role` and `content`; the last one is the user's.
    messages: Sequence[Mapping[str, str]]
    temperature: float = 0.0  # 0 takes the likeliest token
    top_p: float = 1.0  # 1 is off
    max_tokens: int = 512  # longest answer that is of any use
    seed: int | None = None  # of the sampling; None leaves it to the server


class TextStream:
    """Text on its way from who receives it to who speaks it, which are two threads.

    Args:
        cancel: Called once by :meth:`close`, from any thread: nobody wants the rest.

    Attributes:
        wake: Called, in the receiving thread, when there is something new to take.
        error: Why the text ended too early; None where it didn't.
        was_cut: The model had more to say than it was allowed to.
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
        """Add what was received; dropped after the end."""
        with self._lock:
            if not self._is_ended:
                self._pieces.append(text)
        self.wake()

    def think(self, text: str) -> None:
        """Add what the model thinks before it answers: shown apart from the text, and never spoken."""
        with self._lock:
            self._thoughts.append(text)

    def take_thoughts(self) -> str:
        """Return the thoughts that have come since the last call."""
        with self._lock:
            text, self._thoughts = "".join(self._thoughts), []
            return text

    def end(self, error: AnytalkError | None = None, was_cut: bool = False) -> None:
        """Say that nothing more will come; only the first call counts."""
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
        """Want no more of it."""
        with self._lock:
            was_ended, self._is_ended = self._is_ended, True
        if not was_ended:
            self._cancel()


class ServedBackbone(Backbone):
    """A language model elsewhere. It can write, and a voice that reads text alone can speak what it writes.

    All that needs its weights, states or logits is refused with a sentence.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = PieceTokenizer()
        # Without an element: backbones are asked for the device of their first parameter.
        self.nothing = nn.Parameter(torch.zeros(0), requires_grad=False)

    @abstractmethod
    def answer(self, request: TextRequest) -> TextStream:
        """Send a request and return at once; errors end the stream, with an error that is a sentence."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is called in messages: which model, and where."""

    def check(self) -> None:
        """Ask whether the model is there; called once, when a talker is made of it.

        Raises:
            AnytalkError: it isn't, or refuses.
        """

    @property
    def width(self) -> int:
        """1: nothing is known of its states."""
        return 1

    @property
    def text_vocab_size(self) -> int:
        """All pieces of text that there can be."""
        return VOCAB_SIZE

    def embed_text(self, ids: Tensor) -> Tensor:
        """(B,T) -> zeros (B,T,1)."""
        return self.nothing.new_zeros(*ids.shape, 1)

    def new_cache(self, batch_size: int, max_steps: int) -> Cache:
        """Return an empty cache, which stays empty."""
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
            "this talker's language model is served elsewhere: only its text comes here, no weights, states or logits",
            "attach the model's own files for that; to speak, it needs a voice that reads text alone",
        )
