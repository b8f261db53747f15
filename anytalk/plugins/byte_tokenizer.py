"""Text as its UTF-8 bytes plus a few special tokens: a tokenizer that needs no files. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anytalk.plugins.markup import whole_characters

NUM_BYTES = 256
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Markup that is one id each, from 256 on."""

VOCAB_SIZE = NUM_BYTES + len(SPECIALS)
_SPLIT = re.compile("(" + "|".join(re.escape(special) for special in SPECIALS) + ")")


class ByteTokenizer:
    """Fulfils :class:`anytalk.plugins.contracts.TextTokenizer`.

    Args:
        chat: Offer a chat template (``<|im_start|>role\\n...<|im_end|>\\n``, the ChatML spelling that Qwen2 uses).
    """

    def __init__(self, chat: bool) -> None:
        self._chat = chat

    @property
    def eos_id(self) -> int:
        return NUM_BYTES + SPECIALS.index("<|im_end|>" if self._chat else "<|endoftext|>")

    @property
    def has_chat_template(self) -> bool:
        return self._chat

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text`."""
        return list(whole_characters(text).encode("utf-8"))

    def encode_rendered(self, text: str) -> list[int]:
        """Return ids of `text`; the special spellings become one id each."""
        ids: list[int] = []
        for piece in _SPLIT.split(text):
            ids += [NUM_BYTES + SPECIALS.index(piece)] if piece in SPECIALS else self.encode(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return bytes(i for i in ids if 0 <= i < NUM_BYTES).decode("utf-8", errors="replace")

    def render_chat(self, messages: Sequence[dict[str, str]], **arguments: Any) -> str:
        """Return all messages, then the opening of the assistant's turn."""
        turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
        return "".join(turns) + "<|im_start|>assistant\n"
