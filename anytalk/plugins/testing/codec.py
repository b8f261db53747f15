"""Checks the promises of :class:`~anytalk.plugins.contracts.Codec` on noise and random codes."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Codec
from anytalk.plugins.registry import Registry
from anytalk.plugins.testing.options import built

MOST_VALUES = 256


def check_codec(
    name_or_part: str | Codec,
    registry: Registry | None = None,
    options: dict[str, Any] | None = None,
    *,
    tolerance: float = 1e-5,
    device: str = "cpu",
    num_frames: int = 24,
) -> None:
    """Check shapes, ranges, lengths, repeatability, and that streaming equals the offline decode.

    Args:
        tolerance: The largest difference of two samples that should be equal up to rounding: a batch row and the row
            alone, streamed and offline. Raise it for arithmetic that rounds more, such as a GPU's.
        device: Where the codec is built or, if it is built already, where it is.
        num_frames: How many frames are streamed; more than a frame's sound depends on.
    """
    codec: Codec = built("codec", name_or_part, registry, options, BuildContext(device=device))[0]
    assert isinstance(codec, Codec), f"{type(codec).__name__} is no anytalk Codec"
    check_properties(codec)
    check_encode(codec, device)
    codes = random_codes(codec, 3, num_frames).to(device)
    check_decode(codec, codes[:2], tolerance)
    check_stream(codec, codes[:1], tolerance)
    check_streams_together(codec, codes, tolerance)


def random_codes(codec: Codec, batch_size: int, num_frames: int) -> Tensor:
    """Return seeded random codes, (B,K,T)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, codec.codebook_size, (batch_size, codec.num_streams, num_frames), generator=generator)


def check_properties(codec: Codec) -> None:
    """Check that sizes are positive and fit together."""
    for name in ("sample_rate_hz", "num_streams", "codebook_size", "samples_per_frame"):
        value = getattr(codec, name)
        assert type(value) is int, f"{name} must be an int, got {type(value).__name__}"
        assert value > 0, f"{name} must be positive, got {value}"
    expected_hz = codec.sample_rate_hz / codec.samples_per_frame
    assert abs(codec.frame_rate_hz - expected_hz) < 1e-6, f"frame_rate_hz {codec.frame_rate_hz}, expected {expected_hz}"


def check_encode(codec: Codec, device: str = "cpu") -> None:
    """Check that any length gives whole frames, that silence at the end changes nothing, and that codes are valid."""
    size = codec.samples_per_frame
    wave = torch.rand((2, 3 * size), generator=torch.Generator().manual_seed(0)).to(device) - 0.5
    # Nothing, less than a frame, exactly one, one sample more, several.
    for num_samples, num_frames in ((0, 0), (1, 1), (size, 1), (size + 1, 2), (3 * size, 3)):
        codes = codec.encode(wave[:, :num_samples])
        expected = (2, codec.num_streams, num_frames)
        assert tuple(codes.shape) == expected, f"encode of {num_samples} samples: {tuple(codes.shape)}, not {expected}"
        assert codes.dtype == torch.int64, f"encode must give int64, got {codes.dtype}"
        if num_frames:
            low, high = int(codes.min()), int(codes.max())
            assert low >= 0, f"encode gave code {low}"
            assert high < codec.codebook_size, f"encode gave code {high} of a codebook of {codec.codebook_size}"
    part = wave[:, : size + size // 2]
    padded = torch.nn.functional.pad(part, (0, 2 * size - part.shape[1]))
    assert torch.equal(codec.encode(part), codec.encode(padded)), "encode must pad with silence to whole frames"


def check_decode(codec: Codec, codes: Tensor, tolerance: float) -> None:
    """Check lengths for 0, 1 and more frames, repeatability, that every code decodes, and that rows don't mix."""
    for num_frames in (0, 1, codes.shape[-1]):
        wave = codec.decode(codes[..., :num_frames])
        expected = (2, num_frames * codec.samples_per_frame)
        assert tuple(wave.shape) == expected, f"decode of {num_frames} frames: {tuple(wave.shape)}, not {expected}"
        assert wave.dtype == torch.float32, f"decode must give float32, got {wave.dtype}"
        assert bool(wave.isfinite().all()), f"decode of {num_frames} frames gave samples that are not finite"
    whole = codec.decode(codes)
    assert torch.equal(whole, codec.decode(codes)), "two decodes of the same codes differ"
    error = float((whole[1:] - codec.decode(codes[1:])).abs().max())
    assert error < tolerance, f"a batch row differs from the same row alone by {error:.1e}"
    # Large codebooks are only sampled.
    values = torch.linspace(0, codec.codebook_size - 1, min(codec.codebook_size, MOST_VALUES)).long().to(codes.device)
    wave = codec.decode(values.expand(1, codec.num_streams, -1))
    assert bool(wave.isfinite().all()), "some code values give samples that are not finite"


def check_stream(codec: Codec, codes: Tensor, tolerance: float) -> None:
    """Check that streaming in any chunks equals the offline decode, and that the stream can be used again."""
    num_frames = codes.shape[-1]
    offline = codec.decode(codes)
    for strides in ((1,), (2,), (3,), (5,), (4, 1, 0, 2), (num_frames,)):
        stream = codec.new_stream()
        # A stream may be used again after flush().
        for attempt in ("first", "second"):
            streamed = torch.cat([*_push_all(stream, codes, strides), stream.flush()], -1)
            what = f"streaming in chunks of {strides} frames ({attempt} use)"
            assert streamed.shape == offline.shape, f"{what}: {tuple(streamed.shape)}, offline {tuple(offline.shape)}"
            error = float((streamed - offline).abs().max())
            assert error < tolerance, f"{what} differs from the offline decode by {error:.1e}"
    stream = codec.new_stream()
    assert stream.push(codes[..., :0]).shape == (1, 0), "push of 0 frames into a new stream must give (1, 0)"
    assert stream.flush().shape == (1, 0), "flush of an empty stream must give (1, 0)"


def check_streams_together(codec: Codec, codes: Tensor, tolerance: float) -> None:
    """Check that streams pushed together give what each gives alone, whatever their ages and chunk lengths."""
    # Frames pushed before, and the lengths of the chunks that are then pushed together.
    ages, chunks = (0, 1, 3), ((2, 2, 2), (1, 2, 1), (0, 0, 0), (2, 0, 2))
    alone, together = ([codec.new_stream() for _ in ages] for _ in range(2))
    for row, age in enumerate(ages):
        for streams in (alone, together):
            streams[row].push(codes[row : row + 1, :, :age])
    place = list(ages)
    for lengths in chunks:
        pieces = [
            codes[row : row + 1, :, start : start + length]
            for row, (start, length) in enumerate(zip(place, lengths, strict=True))
        ]
        place = [start + length for start, length in zip(place, lengths, strict=True)]
        pushed = [stream.push(piece) for stream, piece in zip(alone, pieces, strict=True)]
        _compare(pushed, codec.push_all(together, pieces), tolerance)
    _compare([stream.flush() for stream in alone], [stream.flush() for stream in together], tolerance)
    assert codec.push_all([], []) == [], "push_all of no streams must give an empty list"


def _compare(alone: list[Tensor], together: list[Tensor], tolerance: float) -> None:
    for one, other in zip(alone, together, strict=True):
        assert other.shape == one.shape, f"push_all gave {tuple(other.shape)}, push alone {tuple(one.shape)}"
        error = float((other - one).abs().max()) if one.numel() else 0.0
        assert error < tolerance, f"push_all differs from push alone by {error:.1e}"


def _push_all(stream: Any, codes: Tensor, strides: tuple[int, ...]) -> list[Tensor]:
    chunks, start = [], 0
    for stride in cycle(strides):
        chunks.append(stream.push(codes[..., start : start + stride]))
        start += stride
        if start >= codes.shape[-1]:
            return chunks
    return chunks
