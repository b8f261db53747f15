"""Codecs in general: the windowed stream, the checks at the door, the tiny codec, and the check itself."""

from pathlib import Path

import pytest
import torch
from test_snac import SMALL, write_folder

from anytalk.errors import AudioError, ConfigError, PluginError
from anytalk.plugins.codec_stream import WindowedStream, check_codes, pad_to_frames
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.fingerprint import fingerprint
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing.codec import check_codec
from anytalk_adapters.tiny_codec import TinyCodec, cosine_basis


def tiny(**options: int) -> TinyCodec:
    return TinyCodec.build(TinyCodec.Options(**options), BuildContext())


def neighbours(codes: torch.Tensor, first_frame: int) -> torch.Tensor:
    """Two samples per frame: (sum of 2 past + own + 1 future frame, absolute index of the frame)."""
    values = codes[:, 0].float()
    padded = torch.nn.functional.pad(values, (2, 1))
    total = padded.unfold(-1, 4, 1).sum(-1)
    index = torch.arange(first_frame, first_frame + values.shape[-1], dtype=torch.float32).expand_as(total)
    return torch.stack([total, index], -1).flatten(1)


def stream_all(stream: WindowedStream, codes: torch.Tensor, stride: int) -> torch.Tensor:
    chunks = [stream.push(codes[..., i : i + stride]) for i in range(0, codes.shape[-1], stride)]
    return torch.cat([*chunks, stream.flush()], -1)


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 20])
def test_windowed_stream_is_exact_with_enough_context(stride: int) -> None:
    codes = torch.randint(0, 100, (1, 1, 20))
    stream = WindowedStream(neighbours, 1, 2, (2, 1))
    assert torch.equal(stream_all(stream, codes, stride), neighbours(codes, 0))


def test_windowed_stream_is_not_exact_with_less_context() -> None:
    codes = torch.randint(1, 100, (1, 1, 20))
    stream = WindowedStream(neighbours, 1, 2, (1, 1))
    streamed = stream_all(stream, codes, 1)
    assert streamed.shape == (1, 40)
    assert not torch.equal(streamed, neighbours(codes, 0))


def test_windowed_stream_holds_back_the_future_and_nothing_more() -> None:
    stream = WindowedStream(neighbours, 1, 2, (2, 1))
    frame = torch.ones((1, 1, 1), dtype=torch.int64)
    assert [stream.push(frame).shape[1] for _ in range(4)] == [0, 2, 2, 2]
    assert stream.push(frame[..., :0]).shape == (1, 0)
    assert stream.flush().shape == (1, 2)
    assert stream.flush().shape == (1, 0)


def test_windowed_stream_decodes_only_its_window() -> None:
    seen: list[tuple[int, int]] = []

    def decode(codes: torch.Tensor, first_frame: int) -> torch.Tensor:
        seen.append((first_frame, codes.shape[-1]))
        return neighbours(codes, first_frame)

    stream = WindowedStream(decode, 1, 2, (2, 1))
    for _ in range(6):
        stream.push(torch.ones((1, 1, 1), dtype=torch.int64))
    assert seen == [(0, 2), (0, 3), (0, 4), (1, 4), (2, 4)]


def test_windowed_stream_refuses_a_batch() -> None:
    with pytest.raises(AudioError, match=r"\(2, 1, 3\)"):
        WindowedStream(neighbours, 1, 2, (2, 1)).push(torch.zeros((2, 1, 3), dtype=torch.int64))


@pytest.mark.parametrize(
    "codes",
    [
        torch.full((1, 3, 2), 16),
        torch.full((1, 3, 2), -1),
        torch.zeros((1, 4, 2), dtype=torch.int64),
        torch.zeros((3, 2), dtype=torch.int64),
        torch.zeros((1, 3, 2)),
    ],
)
def test_codes_that_are_no_codes_are_refused(codes: torch.Tensor) -> None:
    with pytest.raises(AudioError):
        check_codes(codes, 3, 16)
    with pytest.raises(AudioError):
        tiny().decode(codes)


def test_pad_to_frames() -> None:
    assert pad_to_frames(torch.ones(1, 5), 4).tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert pad_to_frames(torch.ones(1, 0), 4).shape == (1, 0)
    with pytest.raises(AudioError, match="batch axis"):
        pad_to_frames(torch.ones(5), 4)


def test_cosine_basis_is_orthonormal() -> None:
    basis = cosine_basis(12)
    torch.testing.assert_close(basis @ basis.T, torch.eye(12, dtype=torch.float64))


def test_tiny_codec_keeps_the_contract() -> None:
    check_codec("tiny")
    check_codec("tiny", options={"num_streams": 1, "codebook_size": 5, "samples_per_frame": 7})


@pytest.mark.parametrize(("num_streams", "codebook_size"), [(3, 16), (7, 512)])
def test_tiny_codec_finds_all_its_codes_again(num_streams: int, codebook_size: int) -> None:
    codec = tiny(num_streams=num_streams, codebook_size=codebook_size)
    codes = torch.stack([torch.randperm(codebook_size) for _ in range(num_streams)])[None]
    wave = codec.decode(codes)
    assert float(wave.abs().max()) <= 0.9
    assert torch.equal(codec.encode(wave), codes)
    as_pcm16 = (wave * 32767).round() / 32767
    if codebook_size == 16:
        assert torch.equal(codec.encode(as_pcm16), codes)


def test_tiny_codec_is_seeded() -> None:
    codes = torch.randint(0, 16, (1, 3, 4))
    assert torch.equal(tiny().decode(codes), tiny().decode(codes))
    assert not torch.equal(tiny().decode(codes), tiny(seed=1).decode(codes))


def test_tiny_codec_needs_room_for_its_streams() -> None:
    with pytest.raises(ConfigError, match="too few"):
        tiny(num_streams=7, samples_per_frame=20)


class _Forgetful(TinyCodec):
    """Forgets the frames between two pushes."""

    def new_stream(self) -> WindowedStream:
        return WindowedStream(lambda codes, _: self.decode(codes) * (codes.shape[-1] > 1), 3, 160, (0, 0))


class _Short(TinyCodec):
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return super().decode(codes)[:, :-1]


class _Drifting(TinyCodec):
    calls = 0

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().decode(codes) * self.calls


@pytest.mark.parametrize(
    ("codec", "message"), [(_Forgetful, "streaming"), (_Short, "decode of"), (_Drifting, "two decodes")]
)
def test_the_check_finds_broken_codecs(codec: type[TinyCodec], message: str) -> None:
    broken = codec.build(TinyCodec.Options(), BuildContext())
    with pytest.raises(AssertionError, match=message):
        check_codec(broken)


class _Shapeless(TinyCodec):
    """Doesn't say two things that every codec must."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.sample_rate_hz = self.codebook_size = 100


def test_a_codec_that_forgets_what_it_must_say_is_refused_when_it_is_built() -> None:
    with pytest.raises(PluginError, match="_Shapeless was built without num_streams, samples_per_frame"):
        _Shapeless()


class _Rough(TinyCodec):
    """Rounds differently when it streams."""

    def new_stream(self) -> WindowedStream:
        return WindowedStream(lambda codes, _: self.decode(codes) + 1e-4, 3, 160, (0, 0))


def test_the_check_is_told_how_much_rounding_is_allowed() -> None:
    rough = _Rough.build(TinyCodec.Options(), BuildContext())
    with pytest.raises(AssertionError, match="differs from the offline decode"):
        check_codec(rough)
    check_codec(rough, tolerance=1e-3, device="cpu", num_frames=20)


def test_a_decoder_does_not_count_in_the_fingerprint_of_codes(tmp_path: Path) -> None:
    write_folder(tmp_path, SMALL)
    codec = default_registry().build("codec", PartRef(name="snac", options={"model": str(tmp_path)}))
    before = fingerprint(codec, without=codec.decoder_prefixes), fingerprint(codec)
    with torch.no_grad():
        next(codec.model.decoder.parameters()).mul_(0.5)
    assert fingerprint(codec, without=codec.decoder_prefixes) == before[0]
    assert fingerprint(codec) != before[1]
    with torch.no_grad():
        codec.model.quantizer.quantizers[0].codebook.weight.mul_(0.5)
    assert fingerprint(codec, without=codec.decoder_prefixes) != before[0]
