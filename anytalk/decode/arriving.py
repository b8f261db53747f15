"""The text of an answer that is written elsewhere, as tokens, as far as it has come."""

from __future__ import annotations

from collections.abc import Callable

from anytalk.decode.sampling import SamplingOptions
from anytalk.errors import AnytalkError
from anytalk.grid.prompts import Prompt
from anytalk.plugins.contracts import ServedBackbone, TextRequest, TextStream
from anytalk.plugins.markup import whole_characters
from anytalk.plugins.piece_tokenizer import pieces_of


class ArrivingText:
    """Asks for the text of one answer once that is wanted, and cuts what comes back into tokens.

    The tokens don't depend on how the text is cut up on its way: the last piece waits until more text or the end says
    that it is whole. So the same text sounds the same, however slowly it came.

    Attributes:
        ids: Tokens so far.
    """

    def __init__(
        self, backbone: ServedBackbone, prompt: Prompt, sampling: SamplingOptions, max_tokens: int, seed: int | None
    ) -> None:
        self.ids: list[int] = []
        self._backbone = backbone
        self._request = TextRequest(
            messages=prompt.messages,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=max_tokens,
            seed=seed,
        )
        self._stream: TextStream | None = None
        self._rest = ""
        self._is_whole = False

    def begin(self, wake: Callable[[], None]) -> None:
        """Send the request, once; `wake` is called, from any thread, whenever more has come."""
        if self._stream is None:
            self._stream = self._backbone.answer(self._request)
            self._stream.wake = wake
            wake()  # for what came before

    def has(self, index: int) -> bool:
        """Return whether a column's content is known: a token, or the end of the text."""
        if index >= len(self.ids) and not self._is_whole:
            self._take()
        return index < len(self.ids) or self._is_whole

    def _take(self) -> None:
        if self._stream is None:
            return
        text, self._is_whole = self._stream.take()
        text = self._rest + text
        # The other half of a surrogate pair may still come.
        half = text[-1:] if not self._is_whole and "\ud800" <= text[-1:] <= "\udbff" else ""
        pieces = pieces_of(whole_characters(text.removesuffix(half)))
        self._rest = (pieces.pop() if pieces and not self._is_whole else "") + half
        for piece in pieces:
            self.ids += self._backbone.tokenizer.encode(piece)

    def thoughts(self) -> str:
        """Return what came of the model's thoughts since the last call."""
        return "" if self._stream is None else self._stream.take_thoughts()

    @property
    def error(self) -> AnytalkError | None:
        """Why the text ended too early, once it has ended."""
        return self._stream.error if self._stream is not None and self._is_whole else None

    @property
    def was_cut(self) -> bool:
        """Whether the model had more to say than it was allowed to."""
        return self._stream is not None and self._is_whole and self._stream.was_cut

    def close(self) -> None:
        """Cancel the request, where it is still running."""
        if self._stream is not None:
            self._stream.close()
