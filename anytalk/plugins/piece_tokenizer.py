"""Text as short pieces that are their own numbers: a tokenizer for models whose own tokens nobody here knows. No torch.

A piece is a word with the space in front of it, or a part of a long one: about what a language model's tokens are, so
that a voice gets its letters in the portions that it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anytalk.plugins.markup import whole_characters

MAX_BYTES = 7
"""Of UTF-8 in one piece: with their number they fit into the int64 of the grid."""

VOCAB_SIZE = (MAX_BYTES + 1) << (8 * MAX_BYTES)
_WORD = re.compile(r"\s*\S+|\s+")


class PieceTokenizer:
    """Fulfils :class:`anytalk.plugins.contracts.TextTokenizer`."""

    eos_id = 0
    """The empty piece, which no text holds."""

    has_chat_template = True

    def encode(self, text: str) -> list[int]:
        """Return ids of `text`; markup is text like any other."""
        return [_number(piece) for piece in pieces_of(whole_characters(text))]

    encode_rendered = encode

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(_bytes(i) for i in ids if 0 <= i < VOCAB_SIZE).decode("utf-8", errors="replace")

    def render_chat(self, messages: Sequence[dict[str, str]], **arguments: Any) -> str:
        """Return all messages as text. It only says how long a prompt is: the model is sent the messages themselves."""
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages)


def pieces_of(text: str) -> list[str]:
    """Cut a text of whole characters into pieces; all but the last stay the same whatever is written after it."""
    pieces = []
    for word in _WORD.findall(text):
        piece, size = "", 0
        for character in word:
            added = len(character.encode())
            if size + added > MAX_BYTES:
                pieces.append(piece)
                piece, size = "", 0
            piece, size = piece + character, size + added
        pieces.append(piece)
    return pieces


def _number(piece: str) -> int:
    data = piece.encode()
    return len(data) << (8 * MAX_BYTES) | int.from_bytes(data, "big")


def _bytes(token: int) -> bytes:
    size = token >> (8 * MAX_BYTES)
    return (token & ((1 << (8 * size)) - 1)).to_bytes(size, "big")
