"""Sound files, and what is refused as a question."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from anytalk.errors import AudioError
from anytalk.grid.audio import check_speech, read_wave, resample, to_pcm16, write_wave


def tone(rate_hz: int, duration_s: float = 0.5, frequency_hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(int(rate_hz * duration_s)) / rate_hz)).astype(np.float32)


def test_stereo_becomes_mono(tmp_path: Path) -> None:
    left = tone(16000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), 16000, subtype="FLOAT")
    wave = read_wave(tmp_path / "a.wav", 16000)
    assert wave.dtype == np.float32
    np.testing.assert_allclose(wave, left / 2, atol=1e-7)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8000, 16000), (44100, 16000), (16000, 24000)])
def test_other_rates_are_resampled(tmp_path: Path, from_hz: int, to_hz: int) -> None:
    soundfile.write(tmp_path / "a.flac", tone(from_hz), from_hz)
    wave = read_wave(str(tmp_path / "a.flac"), to_hz)
    assert abs(len(wave) - to_hz // 2) <= 1
    inner = slice(to_hz // 10, to_hz * 4 // 10)
    np.testing.assert_allclose(wave[inner], tone(to_hz)[inner], atol=0.01)


def test_the_same_rate_is_left_alone() -> None:
    wave = tone(8000)
    assert resample(wave, 8000, 8000) is wave


def test_files_that_are_no_sound(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="doesn't exist"):
        read_wave(tmp_path / "absent.wav", 16000)
    for name, content in (("garbage.wav", b"not sound" * 99), ("empty.wav", b""), ("cut.flac", b"fLaC\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AudioError, match="not a sound file") as caught:
            read_wave(tmp_path / name, 16000)
        assert "\n" not in caught.value.message
    with pytest.raises(AudioError, match="doesn't exist"):
        read_wave(tmp_path, 16000)


def test_files_without_usable_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0, dtype=np.float32), 16000)
    with pytest.raises(AudioError, match="holds no samples"):
        read_wave(tmp_path / "none.wav", 16000)
    bad = tone(16000)
    bad[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        read_wave(tmp_path / "nan.wav", 16000)


@pytest.mark.parametrize(
    ("wave", "said"),
    [
        (np.zeros(0, dtype=np.float32), "lasts 0.000 s"),
        (tone(16000, 0.05), "lasts 0.050 s"),
        (tone(16000, 31.0), "lasts 31.0 s"),
        (np.zeros(16000, dtype=np.float32), "is silent"),
        (np.full(16000, 5e-5, dtype=np.float32), "is silent"),
    ],
)
def test_what_can_not_be_a_question(wave: np.ndarray, said: str) -> None:
    with pytest.raises(AudioError, match=said):
        check_speech(wave, 16000, "q.wav", max_duration_s=30)


def test_what_can_be_a_question() -> None:
    check_speech(tone(16000, 0.1), 16000, "short")
    check_speech(tone(16000, 30.0), 16000, "long", max_duration_s=30)
    check_speech(tone(16000, 40.0), 16000, "longer")


def test_pcm_clips_instead_of_wrapping() -> None:
    wave = np.array([0.0, 1.0, -1.0, 1.5, -7.0, 0.5], dtype=np.float32)
    assert np.frombuffer(to_pcm16(wave), dtype="<i2").tolist() == [0, 32767, -32767, 32767, -32767, 16384]


def test_written_files_are_clipped_16_bit(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answer.wav"
    write_wave(path, np.array([0.25, 2.0, -2.0], dtype=np.float32), 24000)
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (24000, 1, "PCM_16", 3)
    np.testing.assert_allclose(soundfile.read(path)[0], [0.25, 1.0, -1.0], atol=1e-4)
    assert [p.name for p in path.parent.iterdir()] == ["answer.wav"]


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AudioError, match="can't be written"):
        write_wave(tmp_path / "file" / "a.wav", tone(8000), 8000)
    (tmp_path / "a.wav").mkdir()
    (tmp_path / "a.wav" / "x").write_text("")
    with pytest.raises(AudioError, match="can't be written"):
        write_wave(tmp_path / "a.wav", tone(8000), 8000)
    assert not list(tmp_path.glob(".*"))


def test_a_name_that_is_no_utf8_is_written(tmp_path: Path) -> None:
    path = tmp_path / "\udcff.wav"
    write_wave(path, np.full(800, 0.5, np.float32), 16_000)
    assert len(read_wave(path, 16_000)) == 800
