"""Ends texts before stop strings, and writes text ahead of its voice so that no stop string is spoken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from anytalk.decode.answer import Answer
from anytalk.plugins.contracts import TextTokenizer

if TYPE_CHECKING:
    from anytalk.decode.engine import Generation


def before_stop(text: str, stops: Sequence[str]) -> tuple[int, str | None]:
    """Return how many characters come before the first stop string, and which string it is.

    The first is the one that is complete first, so a text ends in the same place however it is split into pieces. If
    there is none, the string is None, and characters at the end that could begin one are not counted.
    """
    found = [(text.index(stop) + len(stop), text.index(stop), stop) for stop in stops if stop in text]
    if found:
        _, place, stop = min(found)
        return place, stop
    firsts, longest = {stop[0] for stop in stops}, max(map(len, stops), default=1) - 1
    for place in range(max(0, len(text) - longest), len(text)):
        if text[place] in firsts and any(stop.startswith(text[place:]) for stop in stops):
            return place, None
    return len(text), None


class StopStrings:
    """Ends the text of an answer before the first stop string.

    Args:
        stops: The strings, none of them empty.
        decode: Turns tokens into text.
    """

    def __init__(self, stops: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self._stops, self._decode = stops, decode

    def read(self, answer: Answer) -> None:
        """Set the limit of the answer's text; call this after each new token."""
        text = self._decode(answer.text_ids)
        if not text.endswith("\ufffd"):  # perhaps an incomplete character, whose other bytes follow
            answer.text_limit, answer.stopped_by = before_stop(text, self._stops)


class WrittenAhead:
    """Gives a voice the tokens of a text once no stop string can begin in them.

    A stop string may take several tokens, and a voice can't take back what it was given. So another generation writes
    the text at least one token ahead, and the voice waits while the last tokens could still begin a stop string.

    Attributes:
        ids: The tokens that the voice may say so far.
        writer: The generation that writes the text, without a voice.
    """

    def __init__(self, writer: Generation, tokenizer: TextTokenizer) -> None:
        self.ids: list[int] = []
        self.writer = writer
        self._tokenizer = tokenizer
        self._is_whole = False

    def begin(self, wake: Callable[[], None]) -> None:
        """Do nothing: the runner runs the writer beside the voice."""

    def has(self, index: int) -> bool:
        """Return whether the text of this column is known: a token, or the end of the text."""
        if index >= len(self.ids) and not self._is_whole:
            self._take()
        return index < len(self.ids) or self._is_whole

    def _take(self) -> None:
        answer, decode = self.writer.answer, self._tokenizer.decode
        written = answer.text_ids
        kept = answer.kept(decode(written))
        while len(self.ids) < len(written) and len(decode(written[: len(self.ids) + 1])) <= len(kept):
            self.ids.append(written[len(self.ids)])
        self._is_whole = answer.is_written
        if self._is_whole:
            self.ids += self._rest(kept)

    def _rest(self, kept: str) -> list[int]:
        """Return tokens of the kept part of the token in which the stop string begins."""
        encode, rest = self._tokenizer.encode, kept[len(self._tokenizer.decode(self.ids)) :]
        if not rest:
            return []
        # Some tokenizers put a space before a text, so the rest is cut from the encoded whole if possible.
        whole = encode(kept)
        return whole[len(self.ids) :] if whole[: len(self.ids)] == self.ids else encode(rest)

    def thoughts(self) -> str:
        """Return nothing, because thoughts were sent before the answer."""
        return ""

    @property
    def error(self) -> None:
        """Return None, because an error of the writer ends the answer in the runner."""
        return None

    @property
    def was_cut(self) -> bool:
        """Return whether the text was cut off at its maximum length."""
        return self.writer.answer.finish_reason == "length"

    @property
    def stopped_by(self) -> str | None:
        """Return the stop string that ended the text, or None."""
        return self.writer.answer.stopped_by

    def close(self) -> None:
        """Do nothing: the runner removes the writer."""
