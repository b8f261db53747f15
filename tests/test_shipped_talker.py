"""The talker that ships: small, whole, lossless, and it hears and speaks."""

from pathlib import Path

import numpy as np
import pytest

from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta
from anytalk.grid.audio import read_wave
from anytalk.model.config import read_config
from anytalk.model.parent import load_parent
from anytalk.model.talker import Talker, load_talker

EXAMPLES = Path(__file__).parent.parent / "examples"
FOLDER = EXAMPLES / "talkers" / "smollm2-135m-assistant"


@pytest.fixture(scope="module")
def talker() -> Talker:
    return load_talker(FOLDER)


def ask(talker: Talker, **question: object) -> tuple[str, np.ndarray]:
    pieces, text = [np.zeros(0, dtype=np.float32)], ""
    for event in Session(talker).ask(**question):  # type: ignore[arg-type]
        if isinstance(event, AudioDelta):
            pieces.append(event.wave)
        elif isinstance(event, AnswerDone):
            text = event.text
    return text, np.concatenate(pieces)


def test_it_is_small_and_whole() -> None:
    config = read_config(FOLDER)
    assert config.weights is not None
    assert config.weights.num_bytes <= 40_000_000
    assert (FOLDER / config.weights.file).stat().st_size == config.weights.num_bytes
    assert all((FOLDER / str(stage.curve)).is_file() for stage in config.history)
    assert all(path.stat().st_size < 200_000 for path in (FOLDER / "samples").glob("*.wav"))
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "<!--" not in card
    assert "reproduce.sh" in card


def test_it_hears_a_voice_that_it_was_not_trained_on_and_answers_as_if_typed(talker: Talker) -> None:
    assert talker.model.encoder is not None
    wave = read_wave(EXAMPLES / "demo" / "france.wav", talker.model.encoder.sample_rate_hz)
    spoken, sound = ask(talker, wave=wave)
    typed, _ = ask(talker, text="What is the capital of France?", task="T1T2")
    assert spoken == typed
    assert len(sound) > talker.codec.sample_rate_hz / 2


def test_its_language_model_is_its_parent(talker: Talker) -> None:
    mine, parent = talker.model.backbone.state_dict(), load_parent(talker).state_dict()
    assert all(bool((mine[name] == parent[name]).all()) for name in parent)
