"""Splits the text of a served model's answer into tokens as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anytalk.decode.sampling import SamplingOptions
from anytalk.decode.stopping import before_stop
from anytalk.errors import AnytalkError
from anytalk.grid.prompts import Prompt
from anytalk.plugins.contracts import ServedBackbone, TextRequest, TextStream
from anytalk.plugins.markup import whole_characters
from anytalk.plugins.piece_tokenizer import pieces_of


class ArrivingText:
    """Requests the text of one answer from a served model and splits what arrives into tokens.

    The tokens don't depend on how the text was cut up in transit: the last piece is held until more text, or the end,
    shows that it is complete. So the same text sounds the same, however it arrived. Stop
    strings are looked for here, not by the server: not all servers know them, and so all texts end alike.

    Attributes:
        ids: The tokens so far.
        stopped_by: The stop string before which the text ends.
    """

    def __init__(
        self,
        backbone: ServedBackbone,
        prompt: Prompt,
        sampling: SamplingOptions,
        max_tokens: int,
        seed: int | None,
        stops: Sequence[str] = (),
    ) -> None:
        self.ids: list[int] = []
        self.stopped_by: str | None = None
        self._stops = stops
        self._backbone = backbone
        self._request = TextRequest(
            messages=prompt.messages,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=max_tokens,
            seed=seed,
        )
        self._stream: TextStream | None = None
        self._half = ""
        self._come, self._num_kept = "", 0
        self._rest = ""
        self._is_whole = False

    def begin(self, wake: Callable[[], None]) -> None:
        """Send the request, the first time; `wake` is called from any thread whenever text arrives."""
        if self._stream is None:
            self._stream = self._backbone.answer(self._request)
            self._stream.wake = wake
            wake()  # text may have arrived before `wake` was set

    def has(self, index: int) -> bool:
        """Return whether the text of a column is known: a token, or the end of the text."""
        if index >= len(self.ids) and not self._is_whole:
            self._take()
        return index < len(self.ids) or self._is_whole

    def _take(self) -> None:
        if self._stream is None:
            return
        text, self._is_whole = self._stream.take()
        text = self._half + text
        # Half of a surrogate pair is held until its other half may have arrived.
        self._half = text[-1:] if not self._is_whole and "\ud800" <= text[-1:] <= "\udbff" else ""
        text = self._before_stop(whole_characters(text.removesuffix(self._half)))
        pieces = pieces_of(self._rest + text)
        # The last piece is complete only if the text is: "hell" may become "hello".
        self._rest = pieces.pop() if pieces and not self._is_whole else ""
        for piece in pieces:
            self.ids += self._backbone.tokenizer.encode(piece)

    def _before_stop(self, text: str) -> str:
        """Return what may be spoken now that this has come; the first stop string ends the text and the request."""
        if not self._stops:
            return text
        assert self._stream is not None
        self._come += text
        end, self.stopped_by = before_stop(self._come, self._stops)
        if self.stopped_by is not None:
            self._is_whole = True
            self._stream.close()
        elif self._is_whole:
            end = len(self._come)
        first, self._num_kept = self._num_kept, end
        return self._come[first:end]

    def thoughts(self) -> str:
        """Return what arrived of the model's thoughts since the last call."""
        return "" if self._stream is None else self._stream.take_thoughts()

    @property
    def error(self) -> AnytalkError | None:
        """Return the error that ended the text early, once it has ended."""
        is_over = self._stream is not None and self._is_whole and self.stopped_by is None
        return self._stream.error if is_over and self._stream is not None else None

    @property
    def was_cut(self) -> bool:
        """Whether the text was cut off at the maximum length."""
        return self._stream is not None and self._is_whole and self.stopped_by is None and self._stream.was_cut

    def close(self) -> None:
        """Cancel the request if it is still running."""
        if self._stream is not None:
            self._stream.close()
