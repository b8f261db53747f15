"""Heads of sound files that say less than there is: streams in a row, tags in front, counts that are wrong."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_sound_files import RATE_HZ, as_given, pcm_of, riff

from anytalk.errors import AudioError
from anytalk.grid import sound_heads
from anytalk.grid.audio import read_wave, sound_length_s


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    time = np.arange(2 * RATE_HZ) / RATE_HZ
    return np.asarray(0.4 * np.sin(2 * np.pi * (200 * time + 150 * time * time)), dtype=np.float32)


def written(wave: np.ndarray, kind: str, subtype: str | None = None, rate_hz: int = RATE_HZ) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def id3(size: int) -> bytes:
    return b"ID3\4\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


def lengths(data: bytes, folder: Path) -> set[float]:
    """Seconds that are read, and told, of bytes and of a file; one number, within 50 ms of an mp3's padding."""
    found = set()
    for how in ("path", "bytes"):
        audio = as_given(data, how, folder)
        length_s = sound_length_s(audio)
        assert length_s is not None
        found |= {round(len(read_wave(audio, RATE_HZ)) / RATE_HZ, 1), round(length_s, 1)}
    return found


@pytest.mark.parametrize("subtypes", [("VORBIS", "VORBIS"), ("OPUS", "OPUS"), ("VORBIS", "OPUS", "VORBIS")])
def test_streams_of_ogg_in_a_row_are_all_read(subtypes: tuple[str, ...], wave: np.ndarray, tmp_path: Path) -> None:
    data = b"".join(written(wave, "OGG", subtype) for subtype in subtypes)
    assert lengths(data, tmp_path) == {2.0 * len(subtypes)}


def test_streams_of_different_rates_are_refused(wave: np.ndarray, tmp_path: Path) -> None:
    data = written(wave, "OGG", "VORBIS") + written(wave, "OGG", "VORBIS", 24_000)
    with pytest.raises(AudioError, match="changes its sample rate"):
        read_wave(as_given(data, "bytes", tmp_path), RATE_HZ)


def test_streams_without_end_are_refused(wave: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound_heads, "MOST_LINKS", 3)
    monkeypatch.setattr("anytalk.grid.sound_files.MOST_LINKS", 3)
    with pytest.raises(AudioError, match="more than 3 streams"):
        read_wave(as_given(written(wave, "OGG", "VORBIS") * 5, "bytes", tmp_path), RATE_HZ)


def test_mp3s_that_were_joined_are_read_to_the_end(wave: np.ndarray, tmp_path: Path) -> None:
    one = written(wave, "MP3")
    assert lengths(one, tmp_path) == {2.0}
    assert lengths(one + one, tmp_path) <= {4.1, 4.2, 4.3}  # with the silence that encoders put in front


def test_an_mp3_that_was_cut_off_is_as_long_as_what_is_left(wave: np.ndarray, tmp_path: Path) -> None:
    data = written(np.tile(wave, 5), "MP3")
    (length_s,) = lengths(data[: len(data) // 2], tmp_path)
    assert 4.5 < length_s < 5.5


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("kind", ["MP3", "FLAC"])
def test_tags_in_front_of_the_sound(size: int, kind: str, wave: np.ndarray, tmp_path: Path) -> None:
    """A cover is larger than what is looked at to find the first frame."""
    assert lengths(id3(size) + id3(20) + written(wave, kind), tmp_path) == {2.0}


def test_tags_that_are_longer_than_the_file_are_one_sentence(tmp_path: Path) -> None:
    data = b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(50)
    assert sound_heads.without_tags(data) == data
    with pytest.raises(AudioError, match="not a sound file"):
        read_wave(as_given(data, "bytes", tmp_path), RATE_HZ)


def test_a_large_wav_from_a_pipe_is_read_to_its_end(wave: np.ndarray, tmp_path: Path) -> None:
    data = written(wave, "RF64", "PCM_16")
    place = data.find(b"ds64") + 8
    assert place > 8
    assert lengths(data[:place] + bytes(24) + data[place + 24 :], tmp_path) == {2.0}


def test_samples_of_a_pipe_that_look_like_a_chunk_are_samples(wave: np.ndarray, tmp_path: Path) -> None:
    data = riff(b"abcd" + struct.pack("<I", 16) + pcm_of(wave), riff_size=0, data_size=0)
    assert lengths(data, tmp_path) == {2.0}


@pytest.mark.parametrize("name", ["x.snd", "x.vox", "x.wav"])
def test_samples_without_a_head_are_not_read_as_what_the_name_says(name: str, wave: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pcm_of(wave))
    with pytest.raises(AudioError, match="not a sound file"):
        read_wave(tmp_path / name, RATE_HZ)


def test_a_chunk_that_lies_is_read_alike_from_bytes_and_files(wave: np.ndarray, tmp_path: Path) -> None:
    """Its size is so large that going over it means going back, in front of the beginning."""
    data = bytearray(written(wave, "W64", "PCM_16"))
    place = data.find(b"data") + 16
    data[place : place + 8] = (0x825EC8D83AEA0C98).to_bytes(8, "little")
    found = []
    for how in ("path", "bytes"):
        try:
            found.append(len(read_wave(as_given(bytes(data), how, tmp_path), RATE_HZ)))
        except AudioError:
            found.append(0)
    assert found[0] == found[1]
