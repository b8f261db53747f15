"""SNAC's exact stream is the plain decoder, whatever the strides of the model and the pieces of the codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_snac import SMALL, TRUE_24KHZ

from anytalk.errors import AudioError
from anytalk.plugins.codec_stream import WindowedStream
from anytalk.plugins.testing.codec import random_codes
from anytalk_adapters.snac_codec import SNAC, SnacCodec
from anytalk_adapters.snac_stream import SnacStream, SnacWeights


def codec_of(noise_seed: int | None = 0, **changes: Any) -> SnacCodec:
    torch.manual_seed(0)
    model = SNAC(**SMALL | changes).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("alpha", "bias")):  # as made they are all ones, or too small to matter
            torch.nn.init.uniform_(parameter, 0.3, 1.5)
    return SnacCodec(model, noise_seed)


def pieces_of(codec: SnacCodec, codes: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    stream = codec.new_stream()
    assert isinstance(stream, SnacStream)
    return [*(stream.push(piece) for piece in codes.split(sizes, dim=2)), stream.flush()]


@pytest.mark.parametrize("sizes", [[1] * 12, [12], [5, 1, 0, 6], [2, 10]])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"decoder_rates": [3, 5], "encoder_rates": [3, 5]},
        {"depthwise": False},
        {"noise": False},
        {"vq_strides": [8, 4, 2, 1]},
    ],
)
def test_the_stream_is_the_plain_decoder(changes: dict[str, Any], sizes: list[int]) -> None:
    codec = codec_of(**changes)
    codes = random_codes(codec, 1, 12)
    made = torch.cat(pieces_of(codec, codes, sizes), dim=1)
    torch.testing.assert_close(made, codec.decode(codes), atol=1e-5, rtol=0)


def test_noise_of_another_seed_and_none() -> None:
    codes = random_codes(codec_of(), 1, 6)
    waves = []
    for seed in (0, 3, None):
        codec = codec_of(seed)
        waves.append(torch.cat(pieces_of(codec, codes, [6]), dim=1))
        torch.testing.assert_close(waves[-1], codec.decode(codes), atol=1e-5, rtol=0)
    assert float((waves[0] - waves[1]).abs().max()) > 1e-3
    assert float((waves[0] - waves[2]).abs().max()) > 1e-3


def test_less_is_held_back_than_by_a_window() -> None:
    codec = codec_of()
    codes = random_codes(codec, 1, 12)
    held_back = 8 * codec.samples_per_frame - sum(p.shape[1] for p in pieces_of(codec, codes[..., :8], [8])[:-1])
    window = WindowedStream(codec.decode_window, codec.num_streams, codec.samples_per_frame, codec.context_frames)
    by_window = 8 * codec.samples_per_frame - window.push(codes[..., :8]).shape[1]
    assert 0 < held_back < by_window


def test_a_stream_starts_anew_after_its_end() -> None:
    codec = codec_of()
    codes = random_codes(codec, 1, 7)
    stream = codec.new_stream()
    first = torch.cat([stream.push(codes), stream.flush()], dim=1)
    assert stream.flush().shape == (1, 0)
    assert torch.equal(torch.cat([stream.push(codes), stream.flush()], dim=1), first)


def test_two_streams_of_one_codec_are_apart() -> None:
    codec = codec_of()
    codes = random_codes(codec, 2, 5)
    streams = [codec.new_stream(), codec.new_stream()]
    waves: list[list[torch.Tensor]] = [[], []]
    for frame in range(5):
        for row, stream in enumerate(streams):
            waves[row].append(stream.push(codes[row : row + 1, :, frame : frame + 1]))
    for row, stream in enumerate(streams):
        made = torch.cat([*waves[row], stream.flush()], dim=1)
        torch.testing.assert_close(made, codec.decode(codes[row : row + 1]), atol=1e-5, rtol=0)


def test_changed_weights_are_heard() -> None:
    codec = codec_of()
    codes = random_codes(codec, 1, 6)
    before = torch.cat(pieces_of(codec, codes, [6]), dim=1)
    with torch.no_grad():
        for parameter in codec.model.decoder.parameters():
            parameter.mul_(1.1)
    after = torch.cat(pieces_of(codec, codes, [6]), dim=1)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, codec.decode(codes), atol=1e-5, rtol=0)


def test_codes_that_do_not_fit_are_refused() -> None:
    stream = codec_of().new_stream()
    with pytest.raises(AudioError, match="expected \\(1, 7, t\\)"):
        stream.push(torch.zeros(1, 6, 2, dtype=torch.int64))
    with pytest.raises(AudioError, match="codes 0 to 31"):
        stream.push(torch.full((1, 7, 2), 32))


def test_unknown_layers_are_refused() -> None:
    codec = codec_of()
    codec.model.decoder.model.append(torch.nn.ReLU())
    with pytest.raises(AudioError, match="'ReLU' that can't be streamed"):
        SnacWeights(codec.model, None)


@pytest.mark.slow
def test_the_true_size() -> None:
    codec = SnacCodec(SNAC(**TRUE_24KHZ).eval())
    codes = random_codes(codec, 1, 12)
    pieces = pieces_of(codec, codes, [1] * 12)
    torch.testing.assert_close(torch.cat(pieces, dim=1), codec.decode(codes), atol=1e-5, rtol=0)
    # Three frames make the first sound: what follows is looked ahead into for 2.3 frames.
    assert [piece.shape[1] for piece in pieces[:4]] == [0, 0, 1387, 2048]
