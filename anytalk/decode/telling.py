"""Turns an answer into events: its text and its sound, piece by piece, as they become ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.answer import Answer
from anytalk.decode.engine import Generation, no_mark
from anytalk.model.talker import Talker
from anytalk.plugins.thoughts import MARKS, ThoughtReader


@dataclass(frozen=True)
class TextDelta:
    """Carries a piece of the answer's text; all pieces joined are the whole text."""

    text: str


@dataclass(frozen=True)
class ThoughtDelta:
    """Carries a piece of the model's thoughts, which are never spoken and don't belong to the answer."""

    text: str


@dataclass(frozen=True)
class AudioDelta:
    """Carries a piece of the answer's sound."""

    wave: np.ndarray  # (n,) float32 at the codec's rate


@dataclass(frozen=True)
class AnswerDone:
    """Ends an answer, with its size and its times."""

    text: str  # the whole text
    finish_reason: str  # `"stop"`, or `"length"` if the answer reached its maximum length
    num_columns: int  # how many columns were generated
    num_frames: int  # how many codec frames were spoken
    wall_s: float  # seconds from the question's arrival to the last sample
    first_audio_s: float | None  # seconds from the question's arrival to the first sample; None without sound
    audio_s: float  # duration of the spoken answer in seconds
    stopped_by: str | None = None  # the stop string before which the text ended

    @property
    def real_time_factor(self) -> float | None:
        """Return wall-clock seconds per second of speech: below 1 is faster than real time. None without sound."""
        return self.wall_s / self.audio_s if self.audio_s else None


class Telling:
    """Turns an answer into events, each piece once.

    Args:
        answer: The answer, which may still grow.
        written: The answer whose text is told, where another generation writes it; default: `answer`.
        speaks: Whether it is spoken.
        started: ``time.perf_counter()`` at the question's arrival.
        stride_frames: How many codec frames make a piece of sound; the first piece is sent with the first frame.
        mark: See :class:`anytalk.decode.session.Session`.
        reader: Of the marks of thoughts, where these are ordinary text.
    """

    def __init__(
        self,
        talker: Talker,
        answer: Answer,
        *,
        speaks: bool,
        started: float,
        stride_frames: int = 1,
        mark: Callable[[str], None] = no_mark,
        written: Answer | None = None,
        reader: ThoughtReader | None = None,
    ) -> None:
        self.answer = answer
        self.written = answer if written is None else written
        self._reader = reader
        self._talker = talker
        self._started = started
        self._stride_frames = stride_frames
        self._mark = mark
        self.stream = talker.codec.new_stream() if speaks else None
        self._said, self._seen = "", ""
        self._state_read: object = None
        self._num_frames = 0
        self._num_samples = 0
        self._first_audio_s: float | None = None

    def text(self) -> Iterator[TextDelta]:
        """Yield what the last column added to the text."""
        written = self.written
        # Decoding all ids again takes time, so it happens only if something is new, not in columns after the text.
        state = len(written.text_ids), written.text_limit is not None and (written.text_limit, written.is_written)
        if state == self._state_read:
            return
        self._state_read = state
        whole = self._decoded()
        if whole.endswith("\ufffd"):  # perhaps an incomplete character whose other bytes follow
            return
        # With invalid bytes, some tokenizers change what they decoded before once more bytes follow.
        same = takewhile(lambda pair: pair[0] == pair[1], zip(whole, self._seen, strict=False))
        yield from self._told(whole, len(self._seen) if whole.startswith(self._seen) else sum(1 for _ in same))

    def thought(self) -> Iterator[ThoughtDelta]:
        """Yield what the last column added, as thoughts; the marks around them are left out."""
        for delta in self.text():
            text = delta.text
            if self._reader is not None:
                text = self._reader.push(text)[1]
            else:
                for first, _ in MARKS:
                    text = text.replace(first, "")
            if text:
                yield ThoughtDelta(text)

    @staticmethod
    def thought_elsewhere(generation: Generation) -> Iterator[ThoughtDelta]:
        """Yield the thoughts that arrived from a served model."""
        text = generation.arriving.thoughts() if generation.arriving is not None else ""
        if text:
            yield ThoughtDelta(text)

    def rest_of_text(self) -> Iterator[TextDelta]:
        """Yield text that was held back because it might have changed; it completes the answer's text."""
        whole = self._decoded()
        # Otherwise the answer was cut inside a character, and its bytes would contradict text that was sent.
        if whole.startswith(self._seen):
            yield from self._told(whole, len(self._seen))

    def _told(self, whole: str, place: int) -> Iterator[TextDelta]:
        """Yield `whole` from index `place` on."""
        self._seen = whole
        if whole[place:]:
            self._said += whole[place:]
            yield TextDelta(whole[place:])

    @property
    def is_due(self) -> bool:
        """Whether enough frames are ready for a piece of sound: one for the first piece, then a stride."""
        # The first sound doesn't wait for a whole stride.
        wanted = 1 if self._first_audio_s is None else self._stride_frames
        return self.stream is not None and self.answer.frames_ready - self._num_frames >= wanted

    def take(self) -> Tensor:
        """Return the ready codes (1,K,t) that were not taken yet, for :attr:`stream` to decode."""
        ready = max(self._num_frames, self.answer.frames_ready)
        if ready and not self._num_frames:
            self._mark("first_frame")
        codes = torch.from_numpy(self.answer.codes(self._num_frames, ready))[None].to(self._talker.device)
        self._num_frames = ready
        return codes

    def sound(self, pushed: Tensor, is_last: bool = False) -> Iterator[AudioDelta]:
        """Yield the (1,n) samples that the stream made of taken codes; with `is_last` also those that it holds back."""
        assert self.stream is not None
        pieces = [pushed] + ([self.stream.flush()] if is_last else [])
        wave = torch.cat(pieces, dim=1)[0].cpu().numpy()
        if len(wave):
            if self._first_audio_s is None:
                self._first_audio_s = time.perf_counter() - self._started
                self._mark("first_sound")
            self._num_samples += len(wave)
            yield AudioDelta(wave)

    def decode_again(self) -> Tensor:
        """Decode all codes taken so far in a new stream; return the (1,n) samples that were not yielded yet."""
        self.stream = self._talker.codec.new_stream()
        codes = torch.from_numpy(self.answer.codes(0, self._num_frames))[None].to(self._talker.device)
        return self.stream.push(codes)[:, self._num_samples :]

    def say(self, is_last: bool = False) -> Iterator[AudioDelta]:
        """Decode the ready codes and yield their sound; with `is_last` also what the codec holds back."""
        if self.stream is not None:
            yield from self.sound(self.stream.push(self.take()), is_last)

    def done(self) -> AnswerDone:
        """Return the last event; its text is what :meth:`text` and :meth:`rest_of_text` have yielded."""
        answer = self.answer
        return AnswerDone(
            text=self._said,
            finish_reason=answer.finish_reason or "stop",
            # Text answers have no audio columns.
            num_columns=max(len(answer.columns), len(self.written.text_ids)),
            num_frames=self._num_frames,
            wall_s=time.perf_counter() - self._started,
            first_audio_s=self._first_audio_s,
            audio_s=self._num_samples / self._talker.codec.sample_rate_hz,
            stopped_by=self.written.stopped_by,
        )

    def _decoded(self) -> str:
        return self.written.kept(self._talker.model.backbone.tokenizer.decode(self.written.text_ids))
