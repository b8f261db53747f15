"""webm, mp4 and m4a: read where something can unpack them, refused in a sentence where not, whatever they claim."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest
from packed_lab import HAS_AV, HAS_FFMPEG, NEEDED, packed, with_endless_table, with_endless_time

from anytalk.errors import AudioError
from anytalk.grid import packed_sound
from anytalk.grid.audio import read_wave, sound_length_s
from anytalk.grid.sound_files import Bounds, TooLongError, read_samples
from anytalk.grid.sound_heads import sound_kind
from anytalk.plugins.contracts import Sound

pytestmark = NEEDED
RATE_HZ = 48_000
KINDS = ("webm", "mp4")


@pytest.fixture(params=["library", "program"], autouse=True)
def unpacker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """PyAV, and the program ffmpeg."""
    if request.param == "library" and not HAS_AV:
        pytest.skip("needs PyAV: pip install av")
    if request.param == "program":
        if not HAS_FFMPEG:
            pytest.skip("needs the program ffmpeg")
        (tmp_path / "av.py").write_text("raise ImportError")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return str(request.param)


def tone(seconds: float, channels: int = 1) -> np.ndarray:
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


def pitch_hz(wave: np.ndarray, rate_hz: int) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * rate_hz / len(wave))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("how", ["path", "bytes"])
def test_the_sound_of_a_recording_is_read(kind: str, channels: int, how: str, tmp_path: Path) -> None:
    data = packed(kind, tone(1.0, channels), RATE_HZ)
    path = tmp_path / "x"
    path.write_bytes(data)
    audio = path if how == "path" else Sound(name="x", data=data)
    wave = read_wave(audio, 16_000)
    assert len(wave) / 16_000 == pytest.approx(1.0, abs=0.08)
    assert pitch_hz(wave, 16_000) == pytest.approx(440, abs=3)
    assert 0.2 < np.abs(wave).max() < 0.45
    assert sound_length_s(audio) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_beside_the_sound_is_left_alone(kind: str) -> None:
    data = packed(kind, tone(1.0), RATE_HZ, picture=True)
    wave, rate_hz = read_samples(Sound(name="x", data=data))
    assert pitch_hz(wave, rate_hz) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_sound_is_called_so(kind: str) -> None:
    data = packed(kind, None, RATE_HZ, picture=True)
    with pytest.raises(AudioError, match=r"no track of sound|nothing of its sound"):
        read_samples(Sound(name="x", data=data))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_gives_what_is_there_or_a_sentence(kind: str, share: float) -> None:
    data = packed(kind, tone(2.0), RATE_HZ)
    audio = Sound(name="x", data=data[: int(len(data) * share)])
    if kind == "mp4" or share < 0.1:  # an mp4's table of contents stands at its end
        with pytest.raises(AudioError, match=r"nothing of its sound|no track"):
            read_samples(audio)
    else:
        wave, rate_hz = read_samples(audio)
        assert 0 < len(wave) / rate_hz < 2


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_says_of_its_length_is_not_believed(kind: str) -> None:
    data = packed(kind, tone(1.0), RATE_HZ)
    lying = with_endless_time(data)
    assert lying != data
    assert sound_length_s(Sound(name="x", data=lying)) == pytest.approx(1.0, abs=0.08)


def test_a_small_file_that_asks_for_gigabytes_gets_none() -> None:
    data = with_endless_table(packed("mp4", tone(0.5), RATE_HZ))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, time.monotonic()
    with pytest.raises(AudioError, match=r"that can be read|holds no samples"):
        read_samples(Sound(name="x", data=data))
    assert time.monotonic() - began < 15
    # The most of any child so far: other tests may have had larger ones.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 1 << 20), "kB"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(length_s=1.5), "longer than 1.5 seconds"),
        (Bounds(rates_hz=(1_000, 24_000)), "48000"),
        (Bounds(kinds=frozenset({"wav"})), "not a sound file of a known kind"),
    ],
)
def test_bounds_hold_for_what_is_unpacked(kind: str, bounds: Bounds, words: str) -> None:
    with pytest.raises(AudioError, match=words) as caught:
        read_samples(Sound(name="x", data=packed(kind, tone(2.0), RATE_HZ)), bounds)
    assert isinstance(caught.value, TooLongError) == (bounds.length_s < 2)


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_unpacker_a_sentence_says_what_to_install(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_sound, "find_spec", lambda _: None)
    monkeypatch.setattr(packed_sound, "which", lambda _: None)
    with pytest.raises(AudioError, match=r"pip install 'anytalk\[formats\]'"):
        read_samples(Sound(name="x", data=packed(kind, tone(0.5), RATE_HZ)))


@pytest.mark.parametrize("kind", KINDS)
def test_noise_with_the_right_beginning_is_a_sentence(kind: str) -> None:
    data = packed(kind, tone(0.5), RATE_HZ)[:40] + np.random.default_rng(1).bytes(20_000)
    assert sound_kind(data) == kind
    with pytest.raises(AudioError, match="not a sound file that can be read"):
        read_samples(Sound(name="x", data=data))
