"""An answer as events: its text and its sound, piece by piece, as they become ready."""

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
from anytalk.plugins.thoughts import MARKS


@dataclass(frozen=True)
class TextDelta:
    """A piece of the text answer; pieces joined are the whole."""

    text: str


@dataclass(frozen=True)
class ThoughtDelta:
    """A piece of what the model thinks before it answers; it isn't part of the answer, and never spoken."""

    text: str


@dataclass(frozen=True)
class AudioDelta:
    """A piece of the spoken answer."""

    wave: np.ndarray  # (n,) float32 at the codec's rate


@dataclass(frozen=True)
class AnswerDone:
    """The end of an answer, with what it took."""

    text: str  # the whole text
    finish_reason: str  # `"stop"`, or `"length"` when the column budget ran out
    num_columns: int  # generated columns
    num_frames: int  # codec frames spoken
    wall_s: float  # from the question's arrival to the last sample
    first_audio_s: float | None  # from the question's arrival to the first sample; None without sound
    audio_s: float  # length of the spoken answer

    @property
    def real_time_factor(self) -> float | None:
        """Wall-clock seconds per second of speech (below 1 is faster than real time); None without sound."""
        return self.wall_s / self.audio_s if self.audio_s else None


class Telling:
    """Turns an answer into events, each piece once.

    Args:
        answer: As far as it is generated.
        speaks: Whether it is spoken.
        started: ``time.perf_counter()`` of the question's arrival.
        stride_frames: Codec frames per piece of sound; the first piece never waits.
        mark: See :class:`anytalk.decode.session.Session`.
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
    ) -> None:
        self.answer = answer
        self._talker = talker
        self._started = started
        self._stride_frames = stride_frames
        self._mark = mark
        self.stream = talker.codec.new_stream() if speaks else None
        self._said, self._seen = "", ""
        self._num_read = 0
        self._num_frames = 0
        self._num_samples = 0
        self._first_audio_s: float | None = None

    def text(self) -> Iterator[TextDelta]:
        """Yield what the last column added to the text."""
        ids = self.answer.text_ids
        # All ids are decoded again only where there are new ones: not in the columns after the text's end.
        if len(ids) == self._num_read:
            return
        self._num_read = len(ids)
        whole = self._decoded()
        if whole.endswith("\ufffd"):  # perhaps a character of which more bytes are to come
            return
        # Some tokenizers decode bytes that make no character anew with what comes after them.
        same = takewhile(lambda pair: pair[0] == pair[1], zip(whole, self._seen, strict=False))
        yield from self._told(whole, len(self._seen) if whole.startswith(self._seen) else sum(1 for _ in same))

    def thought(self) -> Iterator[ThoughtDelta]:
        """Yield what the last column added to thoughts, which are the text of this answer."""
        for delta in self.text():
            text = delta.text
            for first, _ in MARKS:
                text = text.replace(first, "")
            if text:
                yield ThoughtDelta(text)

    @staticmethod
    def thought_elsewhere(generation: Generation) -> Iterator[ThoughtDelta]:
        """Yield the thoughts that came from a model that is served elsewhere."""
        text = generation.arriving.thoughts() if generation.arriving is not None else ""
        if text:
            yield ThoughtDelta(text)

    def rest_of_text(self) -> Iterator[TextDelta]:
        """Yield text that was held back because it might have changed; the last pieces of :attr:`answer`'s text."""
        whole = self._decoded()
        # Otherwise the answer was cut inside a character, and its bytes would change what was said.
        if whole.startswith(self._seen):
            yield from self._told(whole, len(self._seen))

    def _told(self, whole: str, place: int) -> Iterator[TextDelta]:
        """Yield `whole` from `place` on."""
        self._seen = whole
        if whole[place:]:
            self._said += whole[place:]
            yield TextDelta(whole[place:])

    @property
    def is_due(self) -> bool:
        """Whether enough frames are ready for the next piece of sound: one until the first sound, then a stride."""
        wanted = 1 if self._first_audio_s is None else self._stride_frames
        return self.stream is not None and self.answer.frames_ready - self._num_frames >= wanted

    def take(self) -> Tensor:
        """Return the (1,K,t) codes that are ready and were not taken yet, for :attr:`stream` to decode."""
        ready = max(self._num_frames, self.answer.frames_ready)
        if ready and not self._num_frames:
            self._mark("first_frame")
        codes = torch.from_numpy(self.answer.codes(self._num_frames, ready))[None].to(self._talker.device)
        self._num_frames = ready
        return codes

    def sound(self, pushed: Tensor, is_last: bool = False) -> Iterator[AudioDelta]:
        """Yield the (1,n) samples that the stream made of taken codes; with `is_last` also those it holds back."""
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
        """Decode all codes that were taken, in a new stream, and return the (1,n) samples that were not told yet."""
        self.stream = self._talker.codec.new_stream()
        codes = torch.from_numpy(self.answer.codes(0, self._num_frames))[None].to(self._talker.device)
        return self.stream.push(codes)[:, self._num_samples :]

    def say(self, is_last: bool = False) -> Iterator[AudioDelta]:
        """Decode the codes that are ready and yield their sound; with `is_last` also what the codec holds back."""
        if self.stream is not None:
            yield from self.sound(self.stream.push(self.take()), is_last)

    def done(self) -> AnswerDone:
        """Return the last event, with what the answer took; its text is what :meth:`text` and its rest said."""
        answer = self.answer
        return AnswerDone(
            text=self._said,
            finish_reason=answer.finish_reason or "stop",
            num_columns=max(len(answer.columns), len(answer.text_ids)),
            num_frames=self._num_frames,
            wall_s=time.perf_counter() - self._started,
            first_audio_s=self._first_audio_s,
            audio_s=self._num_samples / self._talker.codec.sample_rate_hz,
        )

    def _decoded(self) -> str:
        return self._talker.model.backbone.tokenizer.decode(self.answer.text_ids)
