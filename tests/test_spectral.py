"""The spectral codec: the shipped weights against their golden sample, streaming, other sizes, files."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from anytalk.errors import AudioError, ConfigError, WeightsError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.sources import resolve
from anytalk.plugins.testing.codec import check_codec, random_codes
from anytalk_adapters import snac_order
from anytalk_adapters.spectral_codec import (
    SHIPPED,
    WITHDRAWN,
    SpectralCodec,
    SpectralNet,
    SpectralSizes,
    load_spectral,
    save_spectral,
)
from anytalk_adapters.spectral_layers import ConvNeXtBlock, htk_mel_filters, overlap_add

GOLDEN = Path(__file__).parent / "golden" / "spectral_sample.safetensors"
SMALL = SpectralSizes(
    sample_rate_hz=8000,
    n_fft=64,
    hop=16,
    num_mels=10,
    width=16,
    hidden=24,
    encoder_blocks=1,
    decoder_blocks=1,
    codebook_size=16,
    codebook_dim=4,
)


@pytest.fixture(scope="module")
def codec() -> SpectralCodec:
    return SpectralCodec.build(SpectralCodec.Options(), BuildContext())


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(GOLDEN)


def test_shipped_weights_are_small_and_say_what_they_are(codec: SpectralCodec) -> None:
    assert resolve(SHIPPED).path.stat().st_size < 12_000_000
    assert sum(p.numel() for p in codec.parameters()) == 5_724_466
    assert (codec.num_streams, codec.codebook_size, codec.sample_rate_hz) == (7, 512, 16_000)
    assert codec.frame_rate_hz == 12.5


def test_what_comes_back_is_about_as_loud(codec: SpectralCodec, golden: dict[str, torch.Tensor]) -> None:
    wave = golden["wave"][None]
    decoded = codec.decode(codec.encode(wave))[:, : wave.shape[1]]
    level = torch.cat([wave, decoded]).unfold(1, 320, 320).square().mean(-1)
    assert torch.corrcoef((level + 1e-6).log())[0, 1] > 0.9


def test_the_first_weights_are_found_in_the_history() -> None:
    with pytest.raises(WeightsError, match="no longer ship") as caught:
        SpectralCodec.build(SpectralCodec.Options(model=WITHDRAWN), BuildContext())
    assert "git show 89428d7:adapters/" in caught.value.hint


def test_codes_of_other_weights_are_another_format(codec: SpectralCodec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name in ("one", "two"):
        save_spectral(SpectralNet(SMALL), tmp_path / name)
    one, two = (SpectralCodec(load_spectral(resolve(str(tmp_path / name)))) for name in ("one", "two"))
    formats = {one.token_format, two.token_format, codec.token_format}
    assert len(formats) == 3
    with torch.no_grad():
        two.net.decoder_out.bias.add_(1)
    assert two.token_format in formats
    with torch.no_grad():
        two.net.encoder_in.bias.add_(1)
    assert two.token_format not in formats


def test_golden_codes(codec: SpectralCodec, golden: dict[str, torch.Tensor]) -> None:
    ragged = [golden[f"codes{i}"][None] for i in range(3)]
    assert torch.equal(codec.encode(golden["wave"][None]), snac_order.flatten(ragged, [4, 2, 1]))


def test_golden_sound(codec: SpectralCodec, golden: dict[str, torch.Tensor]) -> None:
    codes = snac_order.flatten([golden[f"codes{i}"][None] for i in range(3)], [4, 2, 1])
    torch.testing.assert_close(codec.decode(codes)[0], golden["decoded"], rtol=0, atol=1e-4)


def test_spectral_keeps_the_contract() -> None:
    check_codec("spectral")


def test_other_sizes_keep_the_contract() -> None:
    check_codec(SpectralCodec(SpectralNet(SMALL)))


def test_a_stream_holds_back_30_ms_and_looks_no_further(codec: SpectralCodec) -> None:
    codes = random_codes(codec, 1, 3)
    stream = codec.new_stream()
    assert [stream.push(codes[..., i : i + 1]).shape[1] for i in range(3)] == [800, 1280, 1280]
    assert stream.flush().shape == (1, 480)


def test_context_is_all_that_a_frame_reaches_and_no_more() -> None:
    codec = SpectralCodec(SpectralNet(SMALL)).double()
    past, future = codec.context_frames
    codes = random_codes(codec, 1, 3 * (past + future) + 4)
    frame = past + future + 2
    other = codes.clone()
    other[..., frame] = (other[..., frame] + 1) % codec.codebook_size
    changed = (codec.decode(codes) != codec.decode(other))[0].view(-1, codec.samples_per_frame).any(-1).nonzero()
    assert int(changed.min()) == frame - future
    assert int(changed.max()) == frame + past


def test_codes_outside_the_codebook_are_refused(codec: SpectralCodec) -> None:
    for call in (codec.decode, codec.new_stream().push):
        with pytest.raises(AudioError, match="codes 0 to 511"):
            call(torch.full((1, 7, 1), 512))


def test_mel_filters_are_triangles() -> None:
    filters = htk_mel_filters(16_000, 1280, 80)
    assert filters.shape == (641, 80)
    assert float(filters.max()) <= 1
    peaks_hz = filters.argmax(0) * 12.5
    # Centre k lies at 2595 * log10(1 + 8000 / 700) * (k + 1) / 81 mel: 23.1, ... 7687 Hz, to one bin of 12.5 Hz.
    assert float(peaks_hz[0]) == pytest.approx(22.1, abs=12.5)
    assert float(peaks_hz[40]) == pytest.approx(1811, abs=25)
    assert bool((peaks_hz.diff() >= 0).all())


def test_overlap_add_by_hand() -> None:
    frames = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]])
    done, tail = overlap_add(frames, 2, torch.tensor([[100.0, 200.0]]))
    assert done.tolist() == [[101, 202, 13, 24]]
    assert tail.tolist() == [[30, 40]]


def test_block_looks_as_far_ahead_as_it_says() -> None:
    for look_ahead in (0, 3):
        block = ConvNeXtBlock(4, 8, look_ahead)
        padded = torch.rand((1, 4, 24))
        changed = padded.clone()
        changed[..., 10] += 1
        columns = (block(padded) != block(changed))[0].any(0).nonzero().flatten()
        # Column 10 of the padded input is column 10 - (6 - look_ahead) of the output.
        own = 10 - (6 - look_ahead)
        assert (int(columns.min()), int(columns.max())) == (own - look_ahead, own + 6 - look_ahead)


def test_the_network_can_be_trained() -> None:
    net = SpectralNet(SMALL)
    wave = torch.rand((2, 640)) - 0.5
    quantised, _ = net.quantizer(net.latents(wave))
    state = net.new_state(2)
    sound = torch.cat([net.next_samples(quantised, state), net.last_samples(state)], -1)
    assert sound.shape == wave.shape
    (sound - wave).square().mean().backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if "codebook" not in name)


def test_saved_weights_come_back(tmp_path: Path) -> None:
    net = SpectralNet(SMALL)
    save_spectral(net, tmp_path / "own.safetensors")
    again = load_spectral(resolve(str(tmp_path / "own.safetensors")))
    assert again.sizes == SMALL
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float()), name


def test_files_that_are_no_weights_are_told(tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(resolve(SHIPPED).path.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="can't be read"):
        load_spectral(resolve(str(path)))
    with pytest.raises(WeightsError, match="no sizes"):
        load_spectral(resolve(str(GOLDEN)))
    save_spectral(SpectralNet(SMALL), path)
    state = safetensors.torch.load_file(path)
    del state["decoder_out.bias"]
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file(state, path, metadata)
    with pytest.raises(WeightsError, match="can't be read"):
        load_spectral(resolve(str(path)))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="don't fit"):
        SpectralSizes(n_fft=400, hop=320)
    with pytest.raises(ConfigError, match="too short"):
        SpectralSizes(n_fft=4096, hop=320)
