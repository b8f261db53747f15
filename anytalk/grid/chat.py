"""Encodes a chat: markup comes from the template alone, people's words are plain text, speech gets its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from anytalk.errors import ConfigError

if TYPE_CHECKING:
    from anytalk.plugins.contracts import TextTokenizer

Part = str | int
"""A part of a message: text, or the number of columns that its speech takes."""


class Markup(str):
    """A part of a message that the template wrote, so that markup in it is recognised."""


class Composed(str):
    """The text of a message some parts of which the template wrote.

    Attributes:
        parts: The parts, which add up to the text.
    """

    parts: tuple[str, ...]

    def __new__(cls, *parts: str) -> Self:
        """Join the parts and keep them."""
        text = super().__new__(cls, "".join(parts))
        text.parts = parts
        return text


def parts_of(text: str) -> list[Part]:
    """Split a message's text into the parts that it was composed of."""
    return list(text.parts) if isinstance(text, Composed) else [text]


def encode_chat(
    tokenizer: TextTokenizer, messages: Sequence[tuple[str, Sequence[Part]]], template: Mapping[str, Any] | None = None
) -> list[list[int] | int]:
    """Encode a chat up to where its answer begins.

    Messages without speech and without markup are encoded together with the template, so that the ids are the base
    model's own. A part that contains markup is encoded separately, as text.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: A role and the parts of what was said, for each message.
        template: The template's own arguments.

    Returns:
        Token ids, and between them the number of columns of each part that is speech.

    Raises:
        ConfigError: the template drops or changes what was said.
        WeightsError: the template refuses these messages.
    """
    texts = [part for _, parts in messages for part in parts if isinstance(part, str)]
    mark = _unused_mark(texts)
    # One test of all texts together is enough for nearly every chat.
    is_plain = not _holds_markup(tokenizer, "\n".join(text for text in texts if not isinstance(text, Markup)))
    held: list[Part] = []
    shown = []
    for role, parts in messages:
        content = ""
        for part in parts:
            if isinstance(part, str) and (is_plain or isinstance(part, Markup) or not _holds_markup(tokenizer, part)):
                content += part
            else:
                content += mark.format(len(held))
                held.append(part)
        shown.append({"role": role, "content": content})
    rest = tokenizer.render_chat(shown, **(template or {}))
    pieces: list[list[int] | int] = []
    for number, part in enumerate(held):
        # Placeholders must come in the order of the parts, or words would be read as another's.
        before, found, rest = rest.partition(mark.format(number))
        if not found:
            raise ConfigError("the chat template drops or changes the user's words", "set grid.prompt: raw")
        pieces += [tokenizer.encode_rendered(before), part if isinstance(part, int) else tokenizer.encode(part)]
    if any(mark.format(number) in rest for number in range(len(held))):
        raise ConfigError("the chat template writes the user's words twice", "set grid.prompt: raw")
    return [*pieces, tokenizer.encode_rendered(rest)]


def typed_chat(tokenizer: TextTokenizer, messages: Sequence[dict[str, str]]) -> list[int]:
    """Encode a chat without speech; `messages` have a ``role`` and ``content``. It raises what `encode_chat` raises."""
    pieces = encode_chat(tokenizer, [(message["role"], [message["content"]]) for message in messages])
    return [token for piece in pieces if not isinstance(piece, int) for token in piece]


def _holds_markup(tokenizer: TextTokenizer, text: str) -> bool:
    # By their contract, the two differ only on text in which markup is recognised.
    return tokenizer.encode(text) != tokenizer.encode_rendered(text)


def _unused_mark(texts: Sequence[str]) -> str:
    """Return a placeholder for parts, with ``{}`` for the part's number, that occurs in none of the texts.

    It consists of private-use characters and a number, which is raised until no text contains it.
    """
    number = 0
    while any(f"\ue000part{number}." in text for text in texts):
        number += 1
    return f"\ue000part{number}.{{}}\ue001"
