"""Cuts text into short pieces whose ids are their own bytes, for models whose tokens are unknown. Imports no torch.

A piece is a word with the space before it, or a part of a long one. That is about the size of a language model's
tokens, so a voice gets its letters in the portions that it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anytalk.plugins.markup import whole_characters

MAX_BYTES = 7
"""The most UTF-8 bytes of one piece: together with their number they fit into the grid's int64."""

# One more than the largest id: the number of bytes, then MAX_BYTES bytes.
VOCAB_SIZE = (MAX_BYTES + 1) << (8 * MAX_BYTES)
_WORD = re.compile(r"\s*\S+|\s+")


class PieceTokenizer:
    """Implements :class:`anytalk.plugins.contracts.TextTokenizer`; each of the :func:`pieces_of` a text is a token."""

    eos_id = 0
    """The empty piece, which no text contains."""

    has_chat_template = True

    def encode(self, text: str) -> list[int]:
        """Encode `text`; markup in it is plain text."""
        return [_number(piece) for piece in pieces_of(whole_characters(text))]

    encode_rendered = encode

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(_bytes(i) for i in ids if 0 <= i < VOCAB_SIZE).decode("utf-8", errors="replace")

    def render_chat(self, messages: Sequence[dict[str, str]], **arguments: Any) -> str:
        """Join all messages as text, only to measure prompts: the model is sent the messages themselves."""
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages)


def pieces_of(text: str) -> list[str]:
    """Cut text of whole characters into pieces; what is written after it can only change the last one."""
    pieces = []
    for word in _WORD.findall(text):
        piece, size = "", 0
        # Pieces end between characters, so that each is valid UTF-8.
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
    # The length is part of the id, because a piece may begin with NUL bytes.
    return len(data) << (8 * MAX_BYTES) | int.from_bytes(data, "big")


def _bytes(token: int) -> bytes:
    size = token >> (8 * MAX_BYTES)
    return (token & ((1 << (8 * size)) - 1)).to_bytes(size, "big")
