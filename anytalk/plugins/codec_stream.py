"""Checks what codecs are given, and streams any codec whose frames depend on a bounded number of neighbours."""

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
    """Refuse codes that a codec can't decode, before they cause an index error deep inside it.

    Raises:
        AudioError: codes that aren't (B,K,T) integers, or lie outside [0, codebook_size).
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
    """Pad a wave with silence at the end to whole frames, (B,N) -> (B,N').

    Raises:
        AudioError: a wave that isn't (B,N) of a floating-point dtype.
    """
    if wave.dim() != 2 or not wave.is_floating_point():
        raise AudioError(
            f"a wave of shape {tuple(wave.shape)} and {wave.dtype} can't be encoded; expected (B, N) float32",
            "mix it to mono and add a batch axis: wave[None]",
        )
    return F.pad(wave, (0, -wave.shape[-1] % samples_per_frame))


def decode_alike(keys: Sequence[Hashable], decode: Callable[[list[int]], Iterable[Tensor]]) -> list[Tensor]:
    """Decode rows with equal keys together.

    Args:
        keys: One key for each row.
        decode: Takes the indices of rows with equal keys, and returns a tensor for each of them.

    Returns:
        The decoded tensor of each row.
    """
    alike: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        alike.setdefault(key, []).append(row)
    found = {row: made for rows in alike.values() for row, made in zip(rows, decode(rows), strict=True)}
    return [found[row] for row in range(len(keys))]


class StatefulStream(CodecStream, Generic[State]):
    """Decodes each frame once, with a state that the decoder updates.

    Args:
        codec: The codec that the codes belong to.
        new_state: Makes the state of a new answer.
        decode: ``decode(codes (1,K,t), state)`` -> (1,n) samples that are final, t >= 1.
        rest: ``rest(state)`` -> (1,n) samples that were held back.
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
        """Return the current answer's state, made on first use."""
        if self._state is None:
            self._state = self._new_state()
        return self._state

    def push(self, codes: Tensor) -> Tensor:
        """Decode the next frames, (1,K,t) with t >= 0 -> (1,n) final samples (AudioError: codes of another shape)."""
        # Wrong codes must be refused before they change the state.
        check_codes(codes, self._codec.num_streams, self._codec.codebook_size)
        if codes.shape[-1] == 0:
            return torch.zeros((1, 0), device=codes.device)
        return self._decode(codes, self.state)

    def flush(self) -> Tensor:
        """Return the samples held back, (1,n), and reset the stream."""
        state, self._state = self._state, None
        return torch.zeros((1, 0)) if state is None else self._rest(state)


class WindowedStream(CodecStream):
    """Decodes a sliding window and keeps its middle.

    A frame is returned once all future frames that it depends on have arrived; the past frames that it depends on are
    decoded again with it. With the codec's true ``context_frames``, the chunks add up to the offline decode (up to
    rounding). With fewer, sound comes sooner and takes less work, but is wrong near the edges of each chunk.

    Args:
        decode: ``decode(codes (1,K,t), first_frame)`` -> (1, t * samples_per_frame); `first_frame` is the absolute
            index of the window's first frame, for codecs whose sound depends on it (seeded noise).
        num_streams: K.
        samples_per_frame: How many samples a frame decodes to.
        context_frames: How many (past, future) frames each frame depends on.
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
        self._next = 0  # absolute index of the first frame that has not been returned yet

    def push(self, codes: Tensor) -> Tensor:
        """Decode the next frames, (1,K,t) with t >= 0 -> (1,n) samples of the frames that are final now.

        Raises:
            AudioError: codes of another shape.
        """
        if codes.dim() != 3 or codes.shape[:2] != (1, self._num_streams):
            raise AudioError(
                f"a stream was given codes of shape {tuple(codes.shape)}; expected (1, {self._num_streams}, t)",
                "open one stream for each answer",
            )
        self._window = torch.cat([self._window.to(codes.device), codes], -1)
        # The last `future` frames wait until their neighbours have come.
        return self._emit(self._first + self._window.shape[-1] - self._future)

    def flush(self) -> Tensor:
        """Return the samples of the frames held back, (1,n), and reset the stream."""
        tail = self._emit(self._first + self._window.shape[-1])
        self._restart()
        return tail

    def _emit(self, end: int) -> Tensor:
        """Return the samples of the frames not returned yet, up to frame `end` (absolute, exclusive)."""
        if end <= self._next:
            return torch.zeros((1, 0), device=self._window.device)
        wave = self._decode(self._window, self._first)
        start_sample, end_sample = ((frame - self._first) * self._samples_per_frame for frame in (self._next, end))
        self._next = end
        # Frames that later ones depend on stay in the window.
        keep_from = max(self._first, end - self._past)
        self._window = self._window[..., keep_from - self._first :]
        self._first = keep_from
        return wave[:, start_sample:end_sample]
