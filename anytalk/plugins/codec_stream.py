"""Checks the input of codecs, and decodes in chunks exactly for any codec of bounded reach."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from anytalk.errors import AudioError
from anytalk.plugins.contracts import Codec, CodecStream

State = TypeVar("State")


def check_codes(codes: Tensor, num_streams: int, codebook_size: int) -> None:
    """Refuse what a codec can't decode, before it becomes an index error deep inside.

    Raises:
        AudioError: not (B,K,T) of an integer dtype, or a code outside [0, codebook_size).
    """
    if codes.dim() != 3 or codes.shape[1] != num_streams or codes.is_floating_point():
        raise AudioError(
            f"codes of shape {tuple(codes.shape)} and {codes.dtype} can't be decoded; "
            f"expected (B, {num_streams}, T) int64",
            "is this the codec that the codes were made for?",
        )
    if codes.numel() == 0:
        return
    low, high = (int(v) for v in codes.aminmax())
    if low < 0 or high >= codebook_size:
        raise AudioError(
            f"codes from {low} to {high} can't be decoded; this codec has codes 0 to {codebook_size - 1}",
            "special tokens (pad, end of audio) are no codes: cut them off or clamp them before decoding",
        )


def pad_to_frames(wave: Tensor, samples_per_frame: int) -> Tensor:
    """(B,N) -> (B,N'), silence added at the right up to whole frames.

    Raises:
        AudioError: a wave that is not (B,N) of a floating dtype.
    """
    if wave.dim() != 2 or not wave.is_floating_point():
        raise AudioError(
            f"a wave of shape {tuple(wave.shape)} and {wave.dtype} can't be encoded; expected (B, N) float32",
            "mix it to mono and add a batch axis: wave[None]",
        )
    return F.pad(wave, (0, -wave.shape[-1] % samples_per_frame))


def decode_alike(keys: Sequence[Hashable], decode: Callable[[list[int]], Iterable[Tensor]]) -> list[Tensor]:
    """Decode rows of equal keys in one call.

    Args:
        keys: One for each row.
        decode: From the numbers of some rows to what becomes of each.

    Returns:
        What became of each row.
    """
    alike: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        alike.setdefault(key, []).append(row)
    found = {row: made for rows in alike.values() for row, made in zip(rows, decode(rows), strict=True)}
    return [found[row] for row in range(len(keys))]


class StatefulStream(CodecStream, Generic[State]):
    """Decodes each frame once, on a state that the decoder advances.

    Args:
        codec: Whose codes these are.
        new_state: Makes the state of an answer that begins.
        decode: ``decode(codes (1,K,t), state)`` -> (1,n) samples that are final, t >= 1.
        rest: ``rest(state)`` -> (1,n) samples held back.
    """

    def __init__(
        self,
        codec: Codec,
        new_state: Callable[[], State],
        decode: Callable[[Tensor, State], Tensor],
        rest: Callable[[State], Tensor],
    ) -> None:
        self._codec, self._new_state, self._decode, self._rest = codec, new_state, decode, rest
        self._state: State | None = None

    @property
    def state(self) -> State:
        """Of an answer that has begun."""
        if self._state is None:
            self._state = self._new_state()
        return self._state

    def push(self, codes: Tensor) -> Tensor:
        """(1,K,t) frames, t >= 0 -> (1,n) samples that are final (AudioError: codes of another shape)."""
        check_codes(codes, self._codec.num_streams, self._codec.codebook_size)
        if codes.shape[-1] == 0:
            return torch.zeros((1, 0), device=codes.device)
        return self._decode(codes, self.state)

    def flush(self) -> Tensor:
        """(1,n): what was held back; the stream starts anew."""
        state, self._state = self._state, None
        return torch.zeros((1, 0)) if state is None else self._rest(state)


class WindowedStream(CodecStream):
    """Decodes a sliding window and keeps its middle.

    A frame leaves when all future frames it depends on have come; past frames it depends on are decoded again with
    it. With the codec's true ``context_frames`` the joined chunks are the offline decode (to rounding). With fewer,
    sound comes sooner and costs less, but is wrong near each chunk's edges.

    Args:
        decode: ``decode(codes (1,K,t), first_frame)`` -> (1, t * samples_per_frame); `first_frame` is the absolute
            index of the window's first frame, for codecs whose sound depends on it (seeded noise).
        num_streams: K.
        samples_per_frame: Samples of one frame.
        context_frames: (past, future) frames around each frame.
    """

    def __init__(
        self,
        decode: Callable[[Tensor, int], Tensor],
        num_streams: int,
        samples_per_frame: int,
        context_frames: tuple[int, int],
    ) -> None:
        self._decode = decode
        self._num_streams = num_streams
        self._samples_per_frame = samples_per_frame
        self._past, self._future = context_frames
        self._restart()

    def _restart(self) -> None:
        self._window = torch.zeros((1, self._num_streams, 0), dtype=torch.int64)
        self._first = 0  # absolute index of the window's first frame
        self._next = 0  # absolute index of the first frame that has not left yet

    def push(self, codes: Tensor) -> Tensor:
        """(1,K,t) frames, t >= 0 -> (1,n) samples of the frames that are final now.

        Raises:
            AudioError: codes of another shape.
        """
        if codes.dim() != 3 or codes.shape[:2] != (1, self._num_streams):
            raise AudioError(
                f"a stream was given codes of shape {tuple(codes.shape)}; expected (1, {self._num_streams}, t)",
                "open one stream for each answer",
            )
        self._window = torch.cat([self._window.to(codes.device), codes], -1)
        return self._emit(self._first + self._window.shape[-1] - self._future)

    def flush(self) -> Tensor:
        """(1,n): the frames held back; the stream starts anew."""
        tail = self._emit(self._first + self._window.shape[-1])
        self._restart()
        return tail

    def _emit(self, end: int) -> Tensor:
        """Return samples of the frames from the first one held back up to `end` (absolute, exclusive)."""
        if end <= self._next:
            return torch.zeros((1, 0), device=self._window.device)
        wave = self._decode(self._window, self._first)
        start_sample, end_sample = ((frame - self._first) * self._samples_per_frame for frame in (self._next, end))
        self._next = end
        keep_from = max(self._first, end - self._past)
        self._window = self._window[..., keep_from - self._first :]
        self._first = keep_from
        return wave[:, start_sample:end_sample]
