"""When each phoneme of an answer is spoken: arithmetic of one row, from the tokens that have come so far.

Times count in latents of 25 ms, four to a step (one codec frame), from the answer's first frame on. A unit is
*released* with its word, once the :data:`CONTEXT` units after that are known, since encodings see these. What a step
has been shown stays as it was: a word that is released late begins late, after a wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from anytalk.plugins.contracts import END_OF_TEXT
from anytalk_heart.reading import TextReader

__all__ = ["AHEAD", "BEHIND", "CONTEXT", "LATENTS_PER_STEP", "NEVER", "WINDOW", "Script", "first_latent"]

CONTEXT = 8
"""Units before and after a unit that its encoding sees."""
LATENTS_PER_STEP = 4
BEHIND, AHEAD = 6, 2
"""Frames before and after the newest one that a step is shown: seven delayed streams, and what comes next."""
WINDOW = LATENTS_PER_STEP * (BEHIND + 1 + AHEAD)
NEVER = 1 << 30
"""Duration of the end."""


def first_latent(step: int, text_lead: int) -> int:
    """Return the first latent that a step of an answer is shown; its first stream then says frame step - lead - 1."""
    return LATENTS_PER_STEP * (step - text_lead - 1 - BEHIND)


class Script:
    """The units of one answer and their times.

    Args:
        reader: At the beginning of the text.
        breaks: Units before which speech may wait: what parts words and sentences.
        end: The unit that ends each text.
        padding: The unit before the text and after its end.
        text_lead: Of the grid.

    Attributes:
        tokens: Of each step so far.
        starts: First latent of each unit that has a duration.
        durations: Latents of each of these.
    """

    def __init__(self, reader: TextReader, breaks: Sequence[int], end: int, padding: int, text_lead: int) -> None:
        self._reader, self._fresh = reader, reader.copy()
        self._breaks = breaks
        self._end, self._padding, self._text_lead = end, padding, text_lead
        self._begin()

    def _begin(self) -> None:
        self.tokens: list[int] = []
        self.starts: list[int] = []
        self.durations: list[int] = []
        self._units = [self._padding] * CONTEXT
        self._released: list[int] = []  # steps, of units without a duration

    def read(self, tokens: Sequence[int]) -> None:
        """Take the tokens of the next steps."""
        for token in tokens:
            self._units += self._reader.read(token)
            if token == END_OF_TEXT:
                self._units += [self._end] + [self._padding] * CONTEXT
            done = len(self.starts) + len(self._released)
            self._released += [len(self.tokens)] * (self._known(done) - done)
            self.tokens.append(token)

    def _known(self, done: int) -> int:
        """How many units, of which `done` were known before, belong to whole words whose neighbours have come."""
        seen = len(self._units) - 2 * CONTEXT
        if self._units[CONTEXT + seen - 1 :][:1] == [self._end]:
            return seen
        return next((unit for unit in range(seen, done, -1) if self._units[CONTEXT + unit] in self._breaks), done)

    def unspoken(self) -> list[list[int]]:
        """Return each released unit without a duration, with the units around it: 2 * CONTEXT + 1 each."""
        first = len(self.starts)
        return [self._units[unit : unit + 2 * CONTEXT + 1] for unit in range(first, first + len(self._released))]

    def speak(self, durations: Sequence[int]) -> None:
        """Give the units of :meth:`unspoken` their durations."""
        for released, duration in zip(self._released, durations, strict=True):
            soonest = first_latent(released, self._text_lead) + WINDOW - LATENTS_PER_STEP
            before = self.starts[-1] + self.durations[-1] if self.starts else 0
            self.starts.append(max(before, soonest, 0))
            is_end = self._units[len(self.starts) - 1 + CONTEXT] == self._end
            self.durations.append(NEVER if is_end else duration)
        self._released = []

    def crop(self, steps: int) -> None:
        """Go back to the first `steps`; all units come anew from :meth:`unspoken`."""
        tokens = self.tokens[:steps]
        self._reader = self._fresh.copy()
        self._begin()
        self.read(tokens)

    def copy(self) -> Script:
        """Return a script that goes on from here by itself."""
        copied = Script(self._fresh.copy(), self._breaks, self._end, self._padding, self._text_lead)
        copied._reader = self._reader.copy()
        copied.tokens, copied.starts, copied.durations = list(self.tokens), list(self.starts), list(self.durations)
        copied._units, copied._released = list(self._units), list(self._released)
        return copied
