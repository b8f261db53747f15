"""Sound of any make is read to its true end, and what can't be sound is refused before room is made for it."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from anytalk.errors import AudioError
from anytalk.grid import sound_files
from anytalk.grid.audio import check_said, read_wave, sound_length_s
from anytalk.plugins.contracts import Audio, Sound

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    time = np.arange(2 * RATE_HZ) / RATE_HZ
    swept = 0.4 * np.sin(2 * np.pi * (200 * time + 150 * time * time)) * (0.5 + 0.5 * np.sin(4 * np.pi * time))
    return np.asarray(swept, dtype=np.float32)


def pcm_of(wave: np.ndarray) -> bytes:
    return (wave * 32767).round().astype("<i2").tobytes()


def riff(
    data: bytes, *, riff_size: int | None = None, data_size: int | None = None, rate: int = RATE_HZ, channels: int = 1
) -> bytes:
    """A 16-bit wav whose header may lie."""
    head = struct.pack("<HHIIHH", 1, channels, rate, (rate * channels * 2) & 0xFFFFFFFF, channels * 2, 16)
    size = len(data) if data_size is None else data_size
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def flac_of(wave: np.ndarray, samples_told: int) -> bytes:
    """A FLAC that tells another length than it has; 0 is what an encoder writes to a pipe."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE_HZ, format="FLAC", subtype="PCM_16")
    data = bytearray(buffer.getvalue())
    data[21] = (data[21] & 0xF0) | samples_told >> 32
    data[22:26] = (samples_told & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def mp3_of(wave: np.ndarray) -> bytes:
    """A VBR mp3 whose count of frames was never filled in, as in a pipe."""
    quiet = np.concatenate([np.zeros(RATE_HZ, np.float32), wave])
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", RATE_HZ, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.2
    ) as file:
        file.write(quiet)
    data = bytearray(buffer.getvalue())
    place = max(data.find(b"Xing"), data.find(b"Info"))
    assert place > 0
    data[place + 4 : place + 8] = bytes(4)
    return bytes(data)


def as_given(data: bytes, how: str, folder: Path) -> Audio:
    if how == "bytes":
        return Sound(name="x", data=data)
    path = folder / "x.sound"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["path", "bytes"])
@pytest.mark.parametrize(
    ("riff_size", "data_size"), [(0, 0), (None, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFDB), (None, None)]
)
def test_a_wav_from_a_pipe_is_read_to_its_end(
    riff_size: int | None, data_size: int | None, how: str, wave: np.ndarray, tmp_path: Path
) -> None:
    audio = as_given(riff(pcm_of(wave), riff_size=riff_size, data_size=data_size), how, tmp_path)
    assert np.allclose(read_wave(audio, RATE_HZ), wave, atol=1e-4)
    assert sound_length_s(audio) == 2.0


@pytest.mark.parametrize("how", ["path", "bytes"])
@pytest.mark.parametrize("told", [0, 2**36 - 1])
def test_a_flac_that_tells_no_length_or_a_wrong_one_is_read_to_its_end(
    told: int, how: str, wave: np.ndarray, tmp_path: Path
) -> None:
    audio = as_given(flac_of(wave, told), how, tmp_path)
    assert np.allclose(read_wave(audio, RATE_HZ), wave, atol=1e-4)
    assert sound_length_s(audio) == 2.0


@pytest.mark.parametrize("how", ["path", "bytes"])
def test_an_mp3_without_a_count_of_frames_is_read_to_its_end(how: str, wave: np.ndarray, tmp_path: Path) -> None:
    audio = as_given(mp3_of(wave), how, tmp_path)
    assert 3.0 <= len(read_wave(audio, RATE_HZ)) / RATE_HZ < 3.2
    assert sound_length_s(audio) == pytest.approx(3.1, abs=0.1)


def test_an_mp3_that_is_cut_off_gives_what_is_there(wave: np.ndarray) -> None:
    data = mp3_of(wave)
    assert len(read_wave(Sound(name="x", data=data[: len(data) // 2]), RATE_HZ)) > RATE_HZ // 4


@pytest.mark.parametrize(
    ("rate", "channels", "words"),
    [
        (1, 1, "sample rate of 1 Hz"),
        (16, 1, "in kHz"),
        (3_000_000, 1, "sample rate of 3000000 Hz"),
        (0xFFFFFFFF, 1, "not a sound file"),
        (RATE_HZ, 200, "200 channels"),
        (0, 1, "not a sound file"),
        (RATE_HZ, 0, "not a sound file"),
    ],
)
def test_headers_that_no_recording_has_are_refused(
    rate: int, channels: int, words: str, wave: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("samples were read")

    monkeypatch.setattr(sound_files, "_blocks", never)
    for read in (lambda audio: read_wave(audio, RATE_HZ), sound_length_s):
        with pytest.raises(AudioError) as caught:
            read(Sound(name="x", data=riff(pcm_of(wave), rate=rate, channels=channels)))
        assert words in str(caught.value)


def test_a_rate_of_samples_at_hand_is_looked_at_too(wave: np.ndarray) -> None:
    with pytest.raises(AudioError, match="sample rate of 16 Hz"):
        read_wave(Sound(name="x", samples=wave, sample_rate_hz=16), RATE_HZ)


def test_nothing_longer_than_the_limit_is_read(wave: np.ndarray) -> None:
    for audio in (
        Sound(name="x", data=riff(pcm_of(wave))),
        Sound(name="x", data=flac_of(wave, 0)),
        Sound(name="x", samples=wave, sample_rate_hz=RATE_HZ),
    ):
        with pytest.raises(sound_files.TooLongError, match="longer than 1 seconds"):
            sound_files.read_samples(audio, sound_files.Bounds(length_s=1.0))


@pytest.mark.parametrize(("factor", "expected"), [(32767.0, 1.0), (4.0, 1 / 0.4), (1.0, 1.0)])
def test_samples_out_of_range_are_scaled(factor: float, expected: float, wave: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", wave * factor, RATE_HZ, subtype="FLOAT")
    read = read_wave(tmp_path / "x.wav", RATE_HZ)
    assert np.allclose(read, wave * (1.0 if factor != 4.0 else 1 / np.abs(wave).max()), atol=1e-4)
    assert np.abs(read).max() <= 1.0


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38, 1e300])
def test_samples_that_no_sound_has_are_a_sentence(value: float, wave: np.ndarray, tmp_path: Path) -> None:
    broken = wave.astype(np.float64)
    broken[100] = value
    soundfile.write(tmp_path / "x.wav", broken, RATE_HZ, subtype="DOUBLE")
    with pytest.raises(AudioError, match=r"not finite|between -1 and 1"):
        read_wave(tmp_path / "x.wav", RATE_HZ)


@pytest.mark.parametrize("name", ["nowhere.wav", "x" * 5000 + ".wav", "a\0b.wav", "."])
def test_what_is_no_file_is_a_sentence(name: str) -> None:
    with pytest.raises(AudioError, match="doesn't exist"):
        read_wave(Path(name), RATE_HZ)


@pytest.mark.parametrize(
    ("samples", "text", "words"),
    [
        (1, "Hi.", "too short for speech"),
        (RATE_HZ, "Hi.", None),
        (RATE_HZ // 10, "word " * 400, "too short for 1600 letters"),
        (5 * RATE_HZ, "word " * 10, None),
    ],
)
def test_sound_that_cant_be_its_text_is_refused(samples: int, text: str, words: str | None) -> None:
    wave = np.full(samples, 0.1, np.float32)
    if words is None:
        check_said(wave, samples / RATE_HZ, text, "x")
    else:
        with pytest.raises(AudioError, match=words):
            check_said(wave, samples / RATE_HZ, text, "x")
    with pytest.raises(AudioError):
        check_said(np.zeros(RATE_HZ, np.float32), 1.0, "Hi.", "x")
