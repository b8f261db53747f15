"""A chat as token ids: the template's markup from the template alone, what people wrote as text, places for speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from anytalk.errors import ConfigError

if TYPE_CHECKING:
    from anytalk.plugins.contracts import TextTokenizer

Part = str | int
"""Of a message: text, or how many columns its speech takes."""


class Markup(str):
    """A part of a message that the template wrote: markup in it counts."""


class Composed(str):
    """The text of a message, of which the template wrote some parts.

    Attributes:
        parts: Which joined are the text.
    """

    parts: tuple[str, ...]

    def __new__(cls, *parts: str) -> Self:
        """Join parts."""
        text = super().__new__(cls, "".join(parts))
        text.parts = parts
        return text


def parts_of(text: str) -> list[Part]:
    """Return the parts of a message's text."""
    return list(text.parts) if isinstance(text, Composed) else [text]


def encode_chat(
    tokenizer: TextTokenizer, messages: Sequence[tuple[str, Sequence[Part]]], template: Mapping[str, Any] | None = None
) -> list[list[int] | int]:
    """Lay out a chat, ready for its answer.

    Messages without speech and without markup are encoded together with the template, so that the ids are the base
    model's own. A part that holds markup is encoded by itself, as text.

    Args:
        tokenizer: With a chat template.
        messages: Each a role and the parts of what was said.
        template: Arguments of the template.

    Returns:
        Token ids, and between them the number of columns of each part that is speech.

    Raises:
        ConfigError: a template that drops or changes what was said.
        WeightsError: a template that refuses these messages.
    """
    texts = [part for _, parts in messages for part in parts if isinstance(part, str)]
    mark = _unused_mark(texts)
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
        before, found, rest = rest.partition(mark.format(number))
        if not found:
            raise ConfigError("the chat template drops or changes the user's words", "set grid.prompt: raw")
        pieces += [tokenizer.encode_rendered(before), part if isinstance(part, int) else tokenizer.encode(part)]
    return [*pieces, tokenizer.encode_rendered(rest)]


def typed_chat(tokenizer: TextTokenizer, messages: Sequence[dict[str, str]]) -> list[int]:
    """Ids of a chat in which nobody speaks; `messages` have a ``role`` and ``content``. Raises as `encode_chat`."""
    pieces = encode_chat(tokenizer, [(message["role"], [message["content"]]) for message in messages])
    return [token for piece in pieces if not isinstance(piece, int) for token in piece]


def _holds_markup(tokenizer: TextTokenizer, text: str) -> bool:
    return tokenizer.encode(text) != tokenizer.encode_rendered(text)


def _unused_mark(texts: Sequence[str]) -> str:
    """Return a mark for the place of a part, ``{}`` for its number, that nobody's words can be taken for.

    It is made of private-use characters, and of another number while a text holds that one.
    """
    number = 0
    while any(f"\ue000part{number}." in text for text in texts):
        number += 1
    return f"\ue000part{number}.{{}}\ue001"
