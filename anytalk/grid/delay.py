"""Computes where each code is in the answer: delay patterns as pure arithmetic on integer arrays.

Answer columns count from 0; column 0 is the first that the model generates. Text is always left-aligned from column 0.
An audio stream i *lags*: its first code is in column ``lag(i)``, its end token eoa right after its last code, and pads
(pad_a) are everywhere else. With F frames, ``delay`` and K=7 an answer takes F+8 columns (paper, figure 2).

============  =====================================================================================================
``delay``     stream i lags i+1 columns: text first, then one more column per stream (the paper)
``parallel``  all streams lag 1 column (no delay between streams)
``flatten``   one stream; a frame's codes follow each other, each with its own range of ids (the paper's rejected
              alternative: K times as many steps)
============  =====================================================================================================

`text_lead` N adds N more pads in front; with ``"all"`` the text ends first (A-T-T-A, which the paper argues against).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from anytalk.errors import ConfigError, UnknownNameError, did_you_mean
from anytalk.grid.tokens import StreamLayout

TextLead = int | Literal["all"]


@dataclass(frozen=True)
class Legal:
    """Says which tokens one audio stream may have in one answer column."""

    first: int  # first legal code
    stop: int  # end of the legal range, exclusive; equal to `first` when no code is legal
    may_end: bool = False  # whether eoa is legal
    may_pad: bool = False  # whether pad_a is legal (then nothing else is)

    @property
    def is_forced(self) -> bool:
        """Return whether only one token is legal, so that nothing needs to be sampled."""
        return self.first == self.stop


_PAD = Legal(0, 0, may_pad=True)
_END = Legal(0, 0, may_end=True)


@dataclass(frozen=True)
class DelayPattern:
    """Arranges a codec's codes, `codec_streams` streams of `codec_codebook_size` codes, in columns."""

    name: str  # `delay`, `parallel` or `flatten`
    codec_streams: int  # codes per frame
    codec_codebook_size: int  # codes of one codec stream
    text_lead: TextLead = 0  # more pads before the audio, or `"all"`

    def __post_init__(self) -> None:
        if self.name not in PATTERNS:
            raise UnknownNameError(
                f"unknown delay pattern '{self.name}'{did_you_mean(self.name, list(PATTERNS))}",
                f"patterns: {', '.join(PATTERNS)}",
            )
        if self.text_lead != "all" and self.text_lead < 0:
            raise ConfigError(f"text_lead is {self.text_lead}; expected 0 or more, or 'all'", "set grid.text_lead")

    @property
    def _is_flat(self) -> bool:
        return self.name == "flatten"

    @property
    def num_audio_streams(self) -> int:
        """Return K of the grid, which is 1 if all streams are flattened into one."""
        return 1 if self._is_flat else self.codec_streams

    @property
    def codebook_size(self) -> int:
        """Return C of the grid, the number of codes in one of its audio streams."""
        return self.codec_codebook_size * (self.codec_streams if self._is_flat else 1)

    @property
    def steps_per_frame(self) -> int:
        """Return the number of answer columns for each codec frame."""
        return self.codec_streams if self._is_flat else 1

    def lag(self, stream: int, num_text: int = 0) -> int:
        """Return the column of the stream's first code.

        Args:
            num_text: How many text tokens the answer has without its end; only read if `text_lead` is "all".
        """
        lead = num_text if self.text_lead == "all" else self.text_lead
        return lead + 1 + (stream if self.name == "delay" else 0)

    def num_columns(self, num_frames: int, num_text: int = 0) -> int:
        """Return the number of columns up to and including the last stream's eoa."""
        return self.lag(self.num_audio_streams - 1, num_text) + num_frames * self.steps_per_frame + 1

    def apply(self, codes: np.ndarray, layout: StreamLayout, num_text: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Arrange codes in answer columns.

        Args:
            codes: (codec streams, F) int.
            num_text: As in :meth:`lag`.

        Returns:
            Audio rows (K,T) int64 and a mask (K,T) bool, True for codes and eoa.
        """
        num_frames = codes.shape[1]
        columns = self._flat(codes) if self._is_flat else codes  # (K, F * steps_per_frame)
        steps = self.num_columns(num_frames, num_text)
        grid = np.full((self.num_audio_streams, steps), layout.pad_a, dtype=np.int64)
        mask = np.zeros_like(grid, dtype=bool)
        for stream in range(self.num_audio_streams):
            lag = self.lag(stream, num_text)
            end = lag + columns.shape[1]
            grid[stream, lag:end] = columns[stream]
            grid[stream, end] = layout.eoa
            mask[stream, lag : end + 1] = True
        return grid, mask

    def undo(self, grid: np.ndarray, num_frames: int, num_text: int = 0, first_frame: int = 0) -> np.ndarray:
        """Read the codes of frames `first_frame` .. `num_frames` - 1 from answer columns.

        Args:
            grid: (K, T) int64, where T must cover those frames (:meth:`frames_ready`).
            num_frames: The end of the frames to read, exclusive, counted from the answer's first.
            num_text: As in :meth:`lag`.
            first_frame: The first frame to return.

        Returns:
            (codec streams, num_frames - first_frame) int64; ids that aren't codes are returned as they are.
        """
        span = self.steps_per_frame
        rows = []
        for stream in range(self.num_audio_streams):
            lag = self.lag(stream, num_text)
            rows.append(grid[stream, lag + first_frame * span : lag + num_frames * span])
        columns = np.stack(rows)
        if not self._is_flat:
            return columns
        frames = columns.reshape(-1, self.codec_streams).T  # (codec streams, frames)
        return frames - (np.arange(self.codec_streams) * self.codec_codebook_size)[:, None]

    def frames_ready(self, num_columns: int, num_text: int = 0) -> int:
        """Return how many whole frames the first `num_columns` columns contain, unless audio ended earlier."""
        return max(0, (num_columns - self.lag(self.num_audio_streams - 1, num_text)) // self.steps_per_frame)

    def legal(
        self, stream: int, column: int, num_frames: int | None, *, num_text: int = 0, text_ended: bool = True
    ) -> Legal:
        """Return the tokens that a stream may have in a column while an answer is generated.

        The first stream decides where audio ends, which can't be before the text has ended; the others follow with
        their lag.

        Args:
            num_frames: How many frames the answer has once the first stream's eoa was sampled, else None.
            num_text: As in :meth:`lag`; with ``text_lead="all"`` it is only read if `text_ended`.
            text_ended: Whether the text of the answer is complete.
        """
        # The lag isn't known before the text has ended.
        if self.text_lead == "all" and not text_ended:
            return _PAD
        place = column - self.lag(stream, num_text)
        if place < 0:
            return _PAD
        # The first stream has ended, so the end of every other stream is known.
        if num_frames is not None:
            end = num_frames * self.steps_per_frame
            if place >= end:
                return _END if place == end else _PAD
        # With `flatten`, audio can only end between frames.
        leads = stream == 0 and num_frames is None and text_ended and place % self.steps_per_frame == 0
        first = (place % self.codec_streams) * self.codec_codebook_size if self._is_flat else 0
        return Legal(first, first + self.codec_codebook_size, may_end=leads)

    def frames_at_end(self, column: int, num_text: int = 0) -> int:
        """Return F if the first stream's eoa is in this column."""
        return (column - self.lag(0, num_text)) // self.steps_per_frame

    def _flat(self, codes: np.ndarray) -> np.ndarray:
        # Each codec stream has its own range of ids in the one stream of the grid.
        shifted = codes + (np.arange(self.codec_streams) * self.codec_codebook_size)[:, None]
        return shifted.T.reshape(1, -1)


PATTERNS = ("delay", "parallel", "flatten")
"""The names of all patterns."""
