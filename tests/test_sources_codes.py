"""Sets whose answers are codes: SLAM-Omni's and VoiceAssistant-400K."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import write_lines
from test_snac import SMALL
from test_sources import good_rows, is_heard, reasons, refused, rows_of, tone_file
from test_sources_tables import _own_cache as _own_cache
from test_sources_tables import as_sound, datasets, flac, pytestmark

from anytalk.plugins.contracts import BadRow, CodecCodes, Message, Row, Sound
from anytalk_adapters.snac_codec import SNAC, SnacCodec

__all__ = ["pytestmark"]


# ---- slam-omni


def slam(**changes: Any) -> dict[str, Any]:
    line = {
        "key": "1",
        "source_wav": "q.wav",
        "source_text": "What is red?",
        "target_token": [0, 4095, 17],
        "target_text": "A colour.",
    }
    return {**line, **changes}


def same_codes(row: Row, codes: list[list[int]], token_format: str) -> bool:
    given = row.answer_codes
    return given is not None and given.codes.tolist() == codes and given.token_format == token_format


def test_slam_omni(tmp_path: Path) -> None:
    tone_file(tmp_path / "q.wav")
    past = "USER: Hello. ASSISTANT: Hi! USER: Fine? ASSISTANT: Yes. <USER>: What is red?"
    lines = [
        slam(),
        slam(target_token="1 2", source_text=past),
        slam(target_token="# 1 2 3 4 5 6 7", target_wav="q.wav"),
        slam(target_token=None, source_wav=None),
    ]
    first, second, third, last = good_rows("slam-omni", write_lines(tmp_path / "slam.jsonl", lines))
    assert first == Row(
        id="slam.jsonl:1",
        question_text="What is red?",
        question_audio=tmp_path / "q.wav",
        answer_text="A colour.",
        answer_codes=first.answer_codes,
    )
    assert same_codes(first, [[0, 4095, 17]], "cosyvoice/22050/1x4096")
    assert same_codes(second, [[1, 2]], "cosyvoice/22050/1x4096")
    assert second.question_text == "What is red?"
    assert second.history == (
        Message(role="user", text="Hello."),
        Message(role="assistant", text="Hi!"),
        Message(role="user", text="Fine?"),
        Message(role="assistant", text="Yes."),
    )
    assert same_codes(third, [[1], [2], [3], [4], [5], [6], [7]], "snac/24000/7x4096")
    assert third.answer_audio == tmp_path / "q.wav"
    assert (last.answer_codes, last.question_audio) == (None, None)
    whole = good_rows("slam-omni", tmp_path / "slam.jsonl", history=False)[1]
    assert (whole.question_text, whole.history) == (past, ())


def test_slam_omni_as_published_in_parquet(tmp_path: Path) -> None:
    row = {
        "split_name": "ultrachat",
        "index": "7",
        "round": 1,
        "question": "<USER>: What is red?",
        "question_audio": {"bytes": flac(), "path": "q.wav"},
        "answer": "A colour.",
        "answer_cosyvoice_speech_token": [5, 6],
    }
    as_sound([row], "question_audio").to_parquet(tmp_path / "slam.parquet")
    (read,) = good_rows("slam-omni", tmp_path / "slam.parquet")
    assert (read.question_text, read.answer_text, read.history) == ("What is red?", "A colour.", ())
    assert is_heard(read.question_audio)
    assert same_codes(read, [[5, 6]], "cosyvoice/22050/1x4096")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (slam(source_wav="none.wav"), ": sound file 'none.wav' doesn't exist"),
        (slam(target_text=""), ": field 'target_text' is empty"),
        (slam(target_token=[4096]), ": field 'target_token' holds 4096"),
        (slam(target_token=[-1]), ": field 'target_token' is not a list of whole numbers"),
        (slam(target_token=[1.5]), ": field 'target_token' is not a list of whole numbers"),
        (slam(target_token={"a": 1}), ": field 'target_token' is not a list of whole numbers"),
        (slam(target_token="# 1 2"), ": frame 0 of the codes has 2 codes; 7 are expected"),
        (slam(source_text="Hello <USER>: x"), ": the history begins with 'Hello'"),
        (slam(source_text="USER: a <USER>: x"), ": the history ends with the user's turn"),
    ],
)
def test_a_wrong_line_of_slam_omni_is_named(line: dict[str, Any], words: str, tmp_path: Path) -> None:
    tone_file(tmp_path / "q.wav")
    path = write_lines(tmp_path / "slam.jsonl", [slam(), line, slam()])
    first, bad, last = reasons(rows_of("slam-omni", path))
    assert (first, last) == ("slam.jsonl:1", "slam.jsonl:3")
    assert bad.startswith(f"slam.jsonl:2{words}")


def test_slam_omni_needs_its_columns(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "slam.jsonl", [{"source_txt": "x", "target_text": "y"}])
    assert refused("slam-omni", path) == "slam.jsonl: column 'source_text' is missing; is it 'source_txt'?"


# ---- voiceassistant


def spoken(index: str, number: int, **changes: Any) -> dict[str, Any]:
    return {
        "split_name": "qa",
        "index": index,
        "round": number,
        "question": f"q{index}.{number}",
        "question_audio": {"bytes": flac(), "path": f"{index}.flac"},
        "answer": f"a{index}.{number}",
        "answer_snac": "# 1942 2031 2825 2111 2743 271 3545 # 868 1 2 3 4 5 4095",
        **changes,
    }


def assistant(folder: Path, rows: list[dict[str, Any]]) -> Path:
    as_sound(rows, "question_audio").to_parquet(folder / "va.parquet")
    return folder / "va.parquet"


def test_voiceassistant_as_published(tmp_path: Path) -> None:
    first, second, other = good_rows(
        "voiceassistant", assistant(tmp_path, [spoken("x", 0), spoken("x", 1), spoken("y", 0, answer_snac=None)])
    )
    assert first == Row(
        id="va.parquet:1",
        question_text="qx.0",
        question_audio=Sound(name="va.parquet:1, x.flac", data=flac()),
        answer_text="ax.0",
        answer_codes=first.answer_codes,
    )
    assert isinstance(first.answer_codes, CodecCodes)
    assert first.answer_codes.codes.dtype == np.int64
    codes = [[1942, 868], [2031, 1], [2825, 2], [2111, 3], [2743, 4], [271, 5], [3545, 4095]]
    assert same_codes(first, codes, "snac/24000/7x4096")
    assert second.history == (Message(role="user", text="qx.0"), Message(role="assistant", text="ax.0"))
    assert (other.history, other.answer_codes) == ((), None)
    without = good_rows("voiceassistant", tmp_path / "va.parquet", history=False)
    assert [row.history for row in without] == [(), (), ()]


def test_rounds_follow_on_one_another_or_are_bad(tmp_path: Path) -> None:
    rows = [
        *[spoken("x", 1), spoken("x", 2, answer_snac="junk"), spoken("x", 3)],
        *[spoken("y", 1), spoken("z", 2), spoken("z", 3)],
        *[spoken("v", 0, answer=None), spoken("v", 1)],
        *[spoken("u", 0), spoken("u", 0, split_name="other")],
        *[spoken("t", 1), spoken("t", 3)],
    ]
    read = rows_of("voiceassistant", assistant(tmp_path, rows))
    out_of_place = "doesn't follow on all its earlier rounds, with text"
    assert reasons(read) == [
        "va.parquet:1",
        "va.parquet:2: the codes don't begin with '#' but with 'junk'",
        "va.parquet:3",
        "va.parquet:4",
        f"va.parquet:5: round 2 of 'z' {out_of_place}",
        f"va.parquet:6: round 3 of 'z' {out_of_place}",
        "va.parquet:7",
        f"va.parquet:8: round 1 of 'v' {out_of_place}",
        "va.parquet:9",
        "va.parquet:10",
        "va.parquet:11",
        f"va.parquet:12: round 3 of 't' {out_of_place}",
    ]
    assert isinstance(read[2], Row)
    assert [message.text for message in read[2].history] == ["qx.1", "ax.1", "qx.2", "ax.2"]


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ("1 2 3 4 5 6 7", "the codes don't begin with '#' but with '1 2 3 4 5 6 7'"),
        ("0 # 1 2 3 4 5 6 7", "the codes don't begin with '#'"),
        ("# 1 2 3 4 5 6 7 # 1 2 3", "frame 1 of the codes has 3 codes; 7 are expected"),
        ("# 1 2 3 4 5 6 7 8", "frame 0 of the codes has 8 codes"),
        ("#", "frame 0 of the codes has 0 codes"),
        ("# 1 2 3 4 5 6 4096", "frame 0 of the codes holds 4096, which is outside 0 to 4095"),
        ("# 1 2 3 4 5 6 -1", "frame 0 of the codes holds '-1', which is not a number"),
        ("# 1 2 3 4 5 6 x", "frame 0 of the codes holds 'x', which is not a number"),
    ],
)
def test_malformed_codes_are_bad_rows(codes: str, words: str, tmp_path: Path) -> None:
    path = assistant(tmp_path, [spoken("x", 0, answer_snac=codes), spoken("y", 0)])
    bad, good = rows_of("voiceassistant", path)
    assert isinstance(bad, BadRow)
    assert isinstance(good, Row)
    assert bad.reason.startswith(f"va.parquet:1: {words}")
    assert "# t0 t1 t2" in bad.hint


def test_voiceassistant_needs_its_columns(tmp_path: Path) -> None:
    path = assistant(tmp_path, [spoken("x", 0)])
    datasets.Dataset.from_parquet(str(path)).rename_column("answer_snac", "answer_snak").to_parquet(
        tmp_path / "other.parquet"
    )
    said = refused("voiceassistant", tmp_path / "other.parquet")
    assert said == "other.parquet: column 'answer_snac' is missing; is it 'answer_snak'?"
    wrong = write_lines(tmp_path / "va.jsonl", [spoken("x", "1", question_audio=None)])  # type: ignore[arg-type]
    assert reasons(rows_of("voiceassistant", wrong)) == [
        "va.jsonl:1: column 'round' is '1'; a whole number is expected"
    ]


def test_the_snac_codec_takes_these_codes_as_its_own() -> None:
    small = {**SMALL, "sampling_rate": 24_000, "codebook_size": 4096}
    assert SnacCodec(SNAC(**small)).token_format == "snac/24000/7x4096"
    assert SnacCodec(SNAC(**SMALL)).token_format == "snac/8000/7x32"
