"""Encodes text as its UTF-8 bytes plus a few special tokens, without any files. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anytalk.plugins.markup import whole_characters

NUM_BYTES = 256
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""The markup that is encoded as one id each, from 256 on."""

VOCAB_SIZE = NUM_BYTES + len(SPECIALS)
_SPLIT = re.compile("(" + "|".join(re.escape(special) for special in SPECIALS) + ")")


class ByteTokenizer:
    """Implements :class:`anytalk.plugins.contracts.TextTokenizer` on bytes.

    Args:
        chat: Whether there is a chat template: ``<|im_start|>role\\n...<|im_end|>\\n``, ChatML as Qwen2 spells it.
    """

    def __init__(self, chat: bool) -> None:
        self._chat = chat

    @property
    def eos_id(self) -> int:
        # In ChatML a turn ends with <|im_end|>, plain text with <|endoftext|>.
        return NUM_BYTES + SPECIALS.index("<|im_end|>" if self._chat else "<|endoftext|>")

    @property
    def has_chat_template(self) -> bool:
        return self._chat

    def encode(self, text: str) -> list[int]:
        """Encode `text` as bytes."""
        return list(whole_characters(text).encode("utf-8"))

    def encode_rendered(self, text: str) -> list[int]:
        """Encode `text`, with one id for each special token that is spelled in it."""
        ids: list[int] = []
        for piece in _SPLIT.split(text):
            ids += [NUM_BYTES + SPECIALS.index(piece)] if piece in SPECIALS else self.encode(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode `ids`; invalid UTF-8 becomes U+FFFD."""
        # Special tokens are 256 and above, so they are dropped here.
        return bytes(i for i in ids if 0 <= i < NUM_BYTES).decode("utf-8", errors="replace")

    def render_chat(self, messages: Sequence[dict[str, str]], **arguments: Any) -> str:
        """Render all messages and the beginning of the assistant's turn."""
        turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
        return "".join(turns) + "<|im_start|>assistant\n"
