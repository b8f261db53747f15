"""Voicing while preparing: what has no sound is read aloud, the same however often it is prepared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_talker, write_lines
from test_prepare import config_of, rejected, run

from anytalk.data import encoding
from anytalk.data import prepare as prepare_module
from anytalk.data.config import DataConfig, VoiceConfig
from anytalk.data.encoding import without_foreign_codes
from anytalk.data.ledger import read_ledger
from anytalk.data.shard_feed import open_shards
from anytalk.data.voicing import Voicing, choose_voices, make_voicing, voice_row
from anytalk.errors import AudioError, ConfigError, UnknownNameError
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.plugins import PartRef
from anytalk.plugins.contracts import CodecCodes, Row, Sound
from anytalk.plugins.registry import default_registry


class Humming:
    """A synthesizer whose sound tells text, voice and speed."""

    sample_rate_hz = 8_000
    voices = ("low", "high")

    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        if text == "...":
            raise AudioError("'...' holds nothing to say")
        pitch = 200 + 10 * len(text) + (500 if voice == "high" else 0)
        return (0.3 * np.sin(2 * np.pi * pitch / 8_000 * np.arange(int(1_600 / speed)))).astype(np.float32)


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    return tiny_talker(tmp_path_factory.mktemp("voicing") / "tiny")


@pytest.fixture
def voiced(monkeypatch: pytest.MonkeyPatch) -> Voicing:
    engine: Any = Humming()
    voicing = Voicing(engine, [("low", 0.8), ("low", 1.0), ("high", 0.8), ("high", 1.0)], "high")
    monkeypatch.setattr(encoding, "make_voicing", lambda *_: voicing)
    return voicing


def test_text_is_voiced_by_turns_and_answers_in_one_voice(tmp_path: Path, talker: Talker, voiced: Voicing) -> None:
    lines: list[Any] = [{"question_text": f"Q{i}?", "answer_text": f"A{i}."} for i in range(6)]
    lines.insert(2, "broken")
    lines.append({"question_text": "...", "answer_text": "A."})
    write_lines(tmp_path / "texts.jsonl", lines)
    run(talker, tmp_path / "out", config_of(tmp_path / "texts.jsonl", voice={}))
    feed = open_shards(tmp_path / "out")[0]
    examples = [feed.example(i) for i in range(len(feed))]
    assert [e.question_text for e in examples] == [f"Q{i}?" for i in range(6)]
    assert {e.speaker for e in examples} == {"high"}
    slow, fast = pytest.approx(0.25), pytest.approx(0.2)
    # Rows 0, 1, 3, 4, 5, 6 of the source: the broken row 2 takes its turn, too.
    assert [e.clip.duration_s for e in examples if e.clip] == [slow, fast, fast, slow, fast, slow]
    assert rejected(tmp_path / "out")[1][:2] == (7, "can't be voiced")
    assert read_ledger(tmp_path / "out").of("jsonl-texts.jsonl")[0].voices == {"high": 2}


def test_voicing_gives_only_what_is_missing_and_needed(voiced: Voicing) -> None:
    codes = CodecCodes(np.zeros((7, 3), dtype=np.int64), "other")
    sound = Sound(name="s", samples=np.ones(9, dtype=np.float32), sample_rate_hz=8_000)
    row = Row(id="r", question_text="Q", question_audio=sound, answer_text="A", answer_codes=codes, speaker="me")
    assert without_foreign_codes(row, "other") is row
    bare = without_foreign_codes(row, "mine")
    assert bare.answer_codes is None
    made = voice_row(bare, 0, [TASKS["A1A2"]], voiced)
    assert made.question_audio is sound
    assert isinstance(made.answer_audio, Sound)
    assert made.speaker == "high"
    assert voice_row(row, 0, [TASKS["A1A2"]], voiced) == row
    silent = Row(id="r", question_text="Q", answer_text="A")
    assert voice_row(silent, 0, [TASKS["T1T2"]], voiced) is silent
    heard = voice_row(silent, 3, [TASKS["A1T2"]], voiced)
    assert isinstance(heard.question_audio, Sound)
    assert heard.question_audio.name == "r, question (high)"
    assert heard.answer_audio is None
    with pytest.raises(AudioError, match="no text to read aloud"):
        voice_row(Row(id="r", question_text=" "), 0, [TASKS["A1T2"]], voiced)


def test_codes_of_another_codec_serve_text_when_nobody_voices_them(
    tmp_path: Path, talker: Talker, voiced: Voicing, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = CodecCodes(np.zeros((7, 3), dtype=np.int64), "snac/24000/7x4096")
    own = CodecCodes(np.array([[1, 2], [3, 4], [15, 0]]), talker.codec.token_format)
    wrong = CodecCodes(np.array([[1, 2], [3, 4], [16, 0]]), talker.codec.token_format)
    made = [
        Row(id=name, question_text="Q", answer_text="A", answer_codes=codes)
        for name, codes in (("foreign", foreign), ("own", own), ("wrong", wrong))
    ]
    made.append(Row(id="mute", answer_codes=foreign))
    monkeypatch.setattr(prepare_module, "read_rows", lambda *_, **__: iter(made))
    config = DataConfig.model_validate({"sources": [{"kind": "jsonl", "name": "x", "path": "x"}]})
    run(talker, tmp_path / "plain", config)
    feed = open_shards(tmp_path / "plain")[0]
    assert [(feed.example(i).id, feed.example(i).tasks) for i in range(2)] == [
        ("foreign", ("T1T2",)),
        ("own", ("T1A1", "T1A2", "T1T2")),
    ]
    codes = feed.example(1).codes
    assert codes is not None
    assert codes.tolist() == own.codes.tolist()
    assert [line[1] for line in rejected(tmp_path / "plain")] == ["unusable", "serves no task"]
    assert "codes of 'snac/24000/7x4096', and no `voice:` reads it" in rejected(tmp_path / "plain")[1][2]

    run(talker, tmp_path / "voiced", config.model_copy(update={"voice": VoiceConfig()}))
    feed = open_shards(tmp_path / "voiced")[0]
    assert feed.indices("A1A2").tolist() == [0, 1]
    assert feed.example(0).speaker == "high"


def test_a_voice_that_the_talker_does_not_know_is_refused_at_once() -> None:
    with pytest.raises(UnknownNameError, match="unknown voice 'jo'"):
        make_voicing(VoiceConfig(answer_voice="jo"), default_registry())
    with pytest.raises(ConfigError, match=r"read by 'joe'.*no embedding"):
        make_voicing(VoiceConfig(), default_registry(), speakers=["ann"])


def test_another_synthesizer_reads_the_answers() -> None:
    asks, answers = Humming(), Humming()
    answers.voices = ("deep",)
    voicing = choose_voices(asks, ["low"], answer_synthesizer=answers)
    assert (voicing.answerer, voicing.answer_voice) == (answers, "deep")
    assert choose_voices(asks, ["low"]).answerer is asks
    with pytest.raises(UnknownNameError, match="'high'"):
        choose_voices(asks, ["low"], answer_voice="high", answer_synthesizer=answers)


def test_data_yaml_may_name_another_synthesizer_for_the_answers() -> None:
    class Installed:
        def build(self, kind: str, ref: PartRef) -> Humming:
            engine = Humming()
            engine.voices = (f"{kind} {ref.name}",)
            return engine

    config = VoiceConfig.model_validate({"synthesizer": {"name": "a"}, "answer_synthesizer": {"name": "b"}})
    installed: Any = Installed()
    voicing = make_voicing(config, installed)
    assert (voicing.variants, voicing.answer_voice) == ([("synthesizer a", 1.0)], "synthesizer b")
    assert make_voicing(VoiceConfig(), installed).answer_voice == "synthesizer piper"
