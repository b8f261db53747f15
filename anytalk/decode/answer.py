"""Holds an answer as far as it is generated: its text, its columns, and the codec frames in them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from anytalk.grid.delay import DelayPattern


@dataclass(frozen=True)
class Column:
    """Holds one generated column of the grid."""

    index: int  # its index in the answer
    text: int | None  # the text token; None after the end of the text
    audio: np.ndarray | None  # (K,) int64; None in tasks without speech


@dataclass
class Answer:
    """Holds what has been generated so far."""

    pattern: DelayPattern
    text_ids: list[int] = field(default_factory=list)  # text tokens without the end token
    columns: list[np.ndarray] = field(default_factory=list)  # audio columns (K,)
    num_frames: int | None = None  # how many frames the answer has, once the end of its audio is known
    text_ended: bool = False  # whether the text is complete
    finish_reason: str | None = None  # `"stop"` or `"length"` at the end, None until then
    # How many characters come before a stop string or its possible beginning; None without stop strings.
    text_limit: int | None = None
    stopped_by: str | None = None  # the stop string before which the text ends

    @property
    def is_written(self) -> bool:
        """Return whether the text is complete."""
        return self.text_ended or self.finish_reason is not None

    def kept(self, text: str) -> str:
        """Return the part of the text that no stop string cuts off, now or when more tokens come."""
        return text if self.is_written and self.stopped_by is None else text[: self.text_limit]

    @property
    def frames_ready(self) -> int:
        """Return how many whole frames can be decoded."""
        if self.pattern.text_lead == "all" and not self.text_ended:
            return 0
        ready = self.pattern.frames_ready(len(self.columns), len(self.text_ids))
        # After the end is known, later columns hold ends and pads, not frames.
        return ready if self.num_frames is None else min(ready, self.num_frames)

    def codes(self, first_frame: int = 0, stop_frame: int | None = None) -> np.ndarray:
        """Return the codes of ready frames, (codec streams, n) int64, each a valid code.

        Under the rule ``"original"`` an id may be no code; the stream's previous code takes its place.
        """
        stop = self.frames_ready if stop_frame is None else stop_frame
        if stop <= 0 or first_frame >= stop:
            return np.zeros((self.pattern.codec_streams, 0), dtype=np.int64)
        # Only the columns of these frames are stacked, so that a frame takes the same time late in a long answer.
        recent = self.columns[first_frame * self.pattern.steps_per_frame :]
        codes = self.pattern.undo(np.stack(recent, axis=1), stop - first_frame, len(self.text_ids))
        if self._is_legal(codes).all():
            return codes
        # A repair may need a code from any earlier frame, so now all columns are stacked.
        codes = self.pattern.undo(np.stack(self.columns, axis=1), stop, len(self.text_ids))
        return _repaired(codes, self._is_legal(codes))[:, first_frame:]

    def _is_legal(self, codes: np.ndarray) -> np.ndarray:
        return (codes >= 0) & (codes < self.pattern.codec_codebook_size)


def _repaired(codes: np.ndarray, legal: np.ndarray) -> np.ndarray:
    # For each column, the index of the last legal code up to it; -1 before the first.
    last = np.maximum.accumulate(np.where(legal, np.arange(codes.shape[1]), -1), axis=1)
    return np.where(last >= 0, np.take_along_axis(codes, np.maximum(last, 0), axis=1), 0)
