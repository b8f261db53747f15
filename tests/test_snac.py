"""SNAC on random weights: order of codes, context, noise, files. The true 24 kHz size is in the slow tier."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from anytalk.errors import AudioError, ConfigError, WeightsError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.testing.codec import check_codec, random_codes
from anytalk_adapters import snac_order
from anytalk_adapters.snac_codec import SNAC, SnacCodec
from anytalk_adapters.snac_noise import KEYS_PER_SEED, decoder_context_frames, position_noise

SMALL = {
    "sampling_rate": 8000,
    "encoder_dim": 4,
    "encoder_rates": [2, 4],
    "decoder_dim": 16,
    "decoder_rates": [4, 2],
    "attn_window_size": None,
    "codebook_size": 32,
    "codebook_dim": 4,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
# config.json of hubertsiuzdak/snac_24khz
TRUE_24KHZ = SMALL | {
    "sampling_rate": 24000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "codebook_size": 4096,
    "codebook_dim": 8,
}


def write_folder(folder: Path, config: dict[str, object], name: str = "pytorch_model.bin") -> SNAC:
    torch.manual_seed(0)
    model = SNAC(**config).eval()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if name.endswith(".bin"):
        torch.save(model.state_dict(), folder / name)
    else:
        safetensors.torch.save_file(model.state_dict(), folder / name)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "snac", SMALL)
    return tmp_path / "snac"


def load(folder: Path, **options: object) -> SnacCodec:
    return SnacCodec.build(SnacCodec.Options(model=str(folder), **options), BuildContext())


def stream_all(codec: SnacCodec, codes: torch.Tensor, stride: int) -> torch.Tensor:
    stream = codec.new_stream()
    chunks = [stream.push(codes[..., i : i + stride]) for i in range(0, codes.shape[-1], stride)]
    return torch.cat([*chunks, stream.flush()], -1)


def test_order_of_seven() -> None:
    coarse = torch.tensor([[0, 1]])
    middle = torch.tensor([[10, 11, 12, 13]])
    fine = torch.tensor([[20, 21, 22, 23, 24, 25, 26, 27]])
    codes = snac_order.flatten([coarse, middle, fine], [4, 2, 1])
    assert codes[0, :, 0].tolist() == [0, 10, 20, 21, 11, 22, 23]
    assert codes[0, :, 1].tolist() == [1, 12, 24, 25, 13, 26, 27]
    for back, original in zip(snac_order.unflatten(codes, [4, 2, 1]), [coarse, middle, fine], strict=True):
        assert torch.equal(back, original)


def test_order_of_fifteen() -> None:
    expected = [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (2, 1), (3, 2), (3, 3)]
    expected += [(1, 1), (2, 2), (3, 4), (3, 5), (2, 3), (3, 6), (3, 7)]
    assert snac_order.depth_first_order([8, 4, 2, 1]) == expected


def test_order_is_a_permutation_for_any_strides() -> None:
    for strides in ([1], [2, 2], [6, 2], [9, 3, 1]):
        codes = torch.arange(2 * sum(snac_order.codes_per_frame(strides)) * 3).view(2, -1, 3)
        assert torch.equal(snac_order.flatten(snac_order.unflatten(codes, strides), strides), codes)


def test_order_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="multiple"):
        snac_order.codes_per_frame([4, 3])
    with pytest.raises(ValueError, match="expected 7 streams"):
        snac_order.unflatten(torch.zeros((1, 6, 2)), [4, 2, 1])
    with pytest.raises(ValueError, match="lengths"):
        snac_order.flatten([torch.zeros((1, 2)), torch.zeros((1, 3))], [2, 1])


def test_noise_is_standard_normal_and_belongs_to_its_position() -> None:
    noise = position_noise(0, 200_000, key=1)
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert abs(float((noise**4).mean()) - 3) < 0.1
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 0.01
    assert torch.equal(position_noise(1234, 100, key=1), noise[1234:1334])
    assert abs(float((noise * position_noise(0, 200_000, key=2)).mean())) < 0.01


def test_context_of_the_24_khz_model_is_three_frames_each_way() -> None:
    assert decoder_context_frames([8, 8, 4, 2], 4) == (3, 3)


def test_snac_keeps_the_contract(folder: Path) -> None:
    check_codec("snac", options={"model": str(folder)})
    check_codec("snac", options={"model": str(folder), "noise": "off"})


def test_context_is_all_that_a_frame_reaches_and_no_more(folder: Path) -> None:
    codec = load(folder, noise="off").double()
    past, future = codec.context_frames
    codes = random_codes(codec, 1, 4 * (past + future))
    frame = 2 * (past + future)
    other = codes.clone()
    other[..., frame] = (other[..., frame] + 1) % codec.codebook_size
    changed = (codec.decode(codes) != codec.decode(other))[0].view(-1, codec.samples_per_frame).any(-1).nonzero()
    assert int(changed.min()) == frame - future
    assert int(changed.max()) == frame + past


def test_decode_is_snacs_own_when_fed_the_same_noise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = load(folder, seed=5)
    codes = random_codes(codec, 1, 6)
    ragged = snac_order.unflatten(codes, codec.vq_strides)
    drawn: list[int] = []

    def zeros(size: tuple[int, ...], **_: object) -> torch.Tensor:
        return torch.zeros(size)

    def ours(size: tuple[int, ...], **_: object) -> torch.Tensor:
        drawn.append(size[-1])
        return position_noise(0, size[-1], 5 * KEYS_PER_SEED + len(drawn) - 1).expand(size)

    monkeypatch.setattr(torch, "randn", zeros)
    expected = codec.model.decode(ragged)[:, 0]
    torch.testing.assert_close(load_off(folder).decode(codes), expected, rtol=0, atol=1e-6)
    monkeypatch.setattr(torch, "randn", ours)
    expected = codec.model.decode(ragged)[:, 0]
    torch.testing.assert_close(codec.decode(codes), expected, rtol=0, atol=1e-6)
    assert drawn == [6 * 4 * 4, 6 * 4 * 4 * 2]


def load_off(folder: Path) -> SnacCodec:
    return load(folder, noise="off")


def test_encode_is_snacs_own(folder: Path) -> None:
    codec = load(folder)
    wave = torch.rand((2, codec.samples_per_frame * 5)) - 0.5
    ragged = codec.model.encode(wave[:, None])
    assert torch.equal(codec.encode(wave), snac_order.flatten(ragged, [4, 2, 1]))


def test_seeds_give_other_noise_and_off_gives_none(folder: Path) -> None:
    codec = load(folder)
    codes = random_codes(codec, 1, 4)
    waves = [load(folder).decode(codes), load(folder, seed=1).decode(codes), load_off(folder).decode(codes)]
    assert not torch.equal(waves[0], waves[1])
    assert not torch.equal(waves[0], waves[2])
    assert not torch.equal(waves[1], waves[2])


def test_less_stream_context_is_sooner_and_not_exact(folder: Path) -> None:
    codec = load(folder, stream_context_frames=1)
    codes = random_codes(codec, 1, 20)
    offline = codec.decode(codes)
    stream = codec.new_stream()
    assert stream.push(codes[..., :2]).shape[1] == codec.samples_per_frame
    cheap = stream_all(codec, codes, 1)
    assert cheap.shape == offline.shape
    assert not torch.allclose(cheap, offline, atol=1e-5)


def test_safetensors_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "safe", SMALL, "model.safetensors")
    codes = random_codes(load(folder), 1, 2)
    assert torch.equal(load(folder).decode(codes), load(tmp_path / "safe").decode(codes))


def test_codes_outside_the_codebook_are_refused(folder: Path) -> None:
    codec = load(folder)
    with pytest.raises(AudioError, match="codes 0 to 31"):
        codec.decode(torch.full((1, 7, 1), 32))
    with pytest.raises(AudioError, match="codes 0 to 31"):
        codec.new_stream().push(torch.full((1, 7, 12), -1))


def test_attention_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "attention", SMALL | {"attn_window_size": 4, "encoder_dim": 16, "decoder_dim": 64})
    with pytest.raises(ConfigError, match="attention"):
        load(tmp_path / "attention")


def test_a_missing_model_is_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(WeightsError, match="hub"):
        SnacCodec.build(SnacCodec.Options(), BuildContext())
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="not a SNAC folder"):
        load(tmp_path / "empty")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match="not a SNAC folder"):
        load(folder)


def test_a_damaged_model_is_told(folder: Path) -> None:
    weights = folder / "pytorch_model.bin"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not weights at all"):
        weights.write_bytes(damaged)
        with pytest.raises(WeightsError, match="can't be read as a SNAC model"):
            load(folder)
    weights.write_bytes(whole)
    for config in ("{", json.dumps(SMALL | {"colour": 1}), json.dumps(SMALL | {"codebook_size": 64})):
        (folder / "config.json").write_text(config)
        with pytest.raises(WeightsError, match="can't be read as a SNAC model"):
            load(folder)


@pytest.mark.slow
def test_true_24_khz_size(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "snac", TRUE_24KHZ)
    assert sum(p.numel() for p in model.parameters()) == 19_842_914
    assert len(model.state_dict()) == 269
    codec = load(tmp_path / "snac")
    assert (codec.num_streams, codec.codebook_size, codec.samples_per_frame) == (7, 4096, 2048)
    assert np.isclose(codec.frame_rate_hz, 11.71875)
    codes = random_codes(codec, 1, 12)
    offline = codec.decode(codes)
    for stride in (1, 3):
        torch.testing.assert_close(stream_all(codec, codes, stride), offline, rtol=0, atol=1e-5)
    assert codec.encode(offline).shape == codes.shape
