"""Stop strings: where a text ends before the first of them, and a text that is written ahead of its voice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from anytalk.decode.answer import Answer
from anytalk.plugins.contracts import TextTokenizer

if TYPE_CHECKING:
    from anytalk.decode.engine import Generation


def before_stop(text: str, stops: Sequence[str]) -> tuple[int, str | None]:
    """Return how many characters stand before the first stop string, and which one it is.

    The first is the one that is complete first, so a text ends in the same place however it came in pieces. While none
    is there, it is None, and characters at the end that may be the beginning of one are not counted.
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
        decode: Tokens to text.
    """

    def __init__(self, stops: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self._stops, self._decode = stops, decode

    def read(self, answer: Answer) -> None:
        """Look at a text that has got another token."""
        text = self._decode(answer.text_ids)
        if not text.endswith("\ufffd"):  # perhaps a character of which more bytes are to come
            answer.text_limit, answer.stopped_by = before_stop(text, self._stops)


class WrittenAhead:
    """The text of an answer for its voice, which gets a token when no stop string can begin in it any more.

    A stop string may take several tokens, and what the voice was given it says: so another generation writes the text,
    one token or more ahead, and the voice waits while the last ones are undecided.

    Attributes:
        ids: Tokens so far.
        writer: Chooses the text, without a voice.
    """

    def __init__(self, writer: Generation, tokenizer: TextTokenizer) -> None:
        self.ids: list[int] = []
        self.writer = writer
        self._tokenizer = tokenizer
        self._is_whole = False

    def begin(self, wake: Callable[[], None]) -> None:
        """Do nothing: the runner runs the writer beside the voice."""

    def has(self, index: int) -> bool:
        """Return whether a column's content is known: a token, or the end of the text."""
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
        """Return tokens of what is kept of a token that the stop string begins in."""
        encode, rest = self._tokenizer.encode, kept[len(self._tokenizer.decode(self.ids)) :]
        if not rest:
            return []
        # Some tokenizers put a space in front of a text, so the rest is taken from the whole where that is possible.
        whole = encode(kept)
        return whole[len(self.ids) :] if whole[: len(self.ids)] == self.ids else encode(rest)

    def thoughts(self) -> str:
        """Return nothing: thoughts were told before the answer."""
        return ""

    @property
    def error(self) -> None:
        """None: what fails the writer fails the answer."""
        return None

    @property
    def was_cut(self) -> bool:
        """Whether the text would have gone on."""
        return self.writer.answer.finish_reason == "length"

    @property
    def stopped_by(self) -> str | None:
        """The stop string before which the text ended, once it has ended."""
        return self.writer.answer.stopped_by

    def close(self) -> None:
        """Do nothing: the runner takes the writer out."""
