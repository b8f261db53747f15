"""The demo's parts, on a tiny talker and a judge that knows what it hears."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import tiny_talker
from rich.console import Console

from anytalk.errors import AnytalkError

sys.path.append(str(Path(__file__).parent.parent / "examples"))

import demo
import demo_parts


class Judge:
    def transcribe(self, wave: np.ndarray, sample_rate_hz: int) -> str:
        return f"{len(wave)} samples"


def test_an_exchange_leaves_sound_picture_and_figures(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    done = demo.exchange(demo.new_session(talker), Judge(), "hello", tmp_path / "answer.wav", "T1A1")
    assert (done.asked, done.text) == ("hello", "hello")
    samples, rate_hz = soundfile.read(tmp_path / "answer.wav")
    assert rate_hz == talker.codec.sample_rate_hz
    assert done.heard == f"{len(samples)} samples"
    assert done.wer == 2.0  # "hello" against two words
    assert done.first_sound_s > 0
    assert (tmp_path / "answer.png").stat().st_size > 1000
    console = Console(width=200, record=True)
    console.print(demo.summary([done]))
    assert "200%" in console.export_text()


def test_a_missing_voice_is_told(tmp_path: Path) -> None:
    # conftest.py hides the package of the voice.
    with pytest.raises(AnytalkError, match="unknown voice 'heart'"):
        demo.demo("tiny", tmp_path / "out")
    assert not (tmp_path / "out" / "talker").exists()


def test_the_questions_are_small_recordings() -> None:
    assert demo_parts.QUESTION in demo.SPOKEN
    for path in demo.SPOKEN:
        assert soundfile.info(str(path)).samplerate in (8_000, 16_000)
        assert path.stat().st_size < 200_000
