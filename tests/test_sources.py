"""Manifests (jsonl, csv), bad rows, and what every data source promises."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import write_lines
from pydantic import Field

from anytalk import plugins
from anytalk.data.config import SourceConfig, read_rows
from anytalk.data.manifest import write_manifest
from anytalk.errors import ConfigError, DataError
from anytalk.grid.audio import read_wave, write_wave
from anytalk.plugins import PartRef
from anytalk.plugins.contracts import BadRow, CodecCodes, DataSource, Message, Row, Sound, strict_rows
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_data_source, check_options

KINDS = {
    "jsonl", "csv", "hf", "voiceassistant", "librispeech", "libritts", "mls", "vctk", "textqa", "messages", "slam-omni",
}  # fmt: skip
RATE_HZ = 16_000


def source_of(kind: str, path: Path | str, **options: Any) -> DataSource:
    built: DataSource = default_registry().build(
        "data source", PartRef(name=kind, options={"path": str(path), **options})
    )
    return built


def rows_of(kind: str, path: Path | str, **options: Any) -> list[Row | BadRow]:
    """All rows of a source that keeps the promises of its contract."""
    return check_data_source(source_of(kind, path, **options))


def good_rows(kind: str, path: Path | str, **options: Any) -> list[Row]:
    return list(strict_rows(rows_of(kind, path, **options)))


def reasons(rows: list[Row | BadRow]) -> list[str]:
    """Of each row: its id if it is good, the reason if it isn't."""
    return [row.reason if isinstance(row, BadRow) else row.id for row in rows]


def refused(kind: str, path: Path | str, **options: Any) -> str:
    """What is said about a source that can't be read at all."""
    with pytest.raises((DataError, ConfigError)) as caught:
        list(source_of(kind, path, **options).rows())
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def tone_file(path: Path, duration_s: float = 0.2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = (0.3 * np.sin(np.arange(int(duration_s * RATE_HZ)) * 0.2)).astype(np.float32)
    if path.suffix == ".flac":
        import soundfile

        soundfile.write(path, wave, RATE_HZ)
    else:
        write_wave(path, wave, RATE_HZ)
    return path


def is_heard(audio: Any) -> bool:
    """Whether it is sound that can be read."""
    return bool(np.abs(read_wave(audio, RATE_HZ)).max() > 0.1)


# ---- jsonl


def test_rows_come_in_order_with_paths_beside_the_manifest(tmp_path: Path) -> None:
    write_wave(tmp_path / "q.wav", np.zeros(100, np.float32), 16_000)
    path = tmp_path / "rows.jsonl"
    write_manifest(path, [{"question_audio": "q.wav", "speaker": "anna"}, {"answer_text": "Grüße 🐝"}])
    path.write_text(path.read_text(encoding="utf-8").replace("\n", "\n\n", 1), encoding="utf-8")
    first, second = good_rows("jsonl", path)
    assert first == Row(id="rows.jsonl:1", question_audio=tmp_path / "q.wav", speaker="anna")
    assert second == Row(id="rows.jsonl:3", answer_text="Grüße 🐝")
    assert [p.name for p in tmp_path.glob("*.jsonl*")] == ["rows.jsonl"]


def test_short_names_history_tasks_and_addresses(tmp_path: Path) -> None:
    tone_file(tmp_path / "q.wav")
    line = {
        "audio": "q.wav",
        "text": "and then?",
        "answer_text": "Nothing.",
        "answer_audio": "s3://bucket/a.flac",
        "history": [
            {"role": "system", "text": "Be brief."},
            {"role": "user", "text": "hi", "audio": "q.wav"},
            {"role": "assistant", "text": "Hello."},
        ],
        "tasks": ["A1A2", "A1T2"],
        "speaker": None,
    }
    (row,) = good_rows("jsonl", write_lines(tmp_path / "rows.jsonl", [line]))
    assert row == Row(
        id="rows.jsonl:1",
        question_text="and then?",
        question_audio=tmp_path / "q.wav",
        answer_text="Nothing.",
        answer_audio=Sound(name="s3://bucket/a.flac", url="s3://bucket/a.flac"),
        history=(
            Message(role="system", text="Be brief."),
            Message(role="user", text="hi", audio=tmp_path / "q.wav"),
            Message(role="assistant", text="Hello."),
        ),
        tasks=("A1A2", "A1T2"),
    )


USER = {"role": "user", "text": "hi"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"anser_text": "x"}, "rows.jsonl:2: unknown field 'anser_text'; did you mean 'answer_text'?"),
        ({"answer_text": 3}, "rows.jsonl:2: field 'answer_text' is a int; text is expected"),
        (["x"], "rows.jsonl:2 is a JSON list"),
        ({"question_audio": "none.wav"}, "rows.jsonl:2: sound file 'none.wav' doesn't exist"),
        ({"question_audio": ""}, "rows.jsonl:2: sound file '' doesn't exist"),
        ({"question_audio": 3}, "rows.jsonl:2: field 'question_audio' is a int; sound is expected"),
        ({"question_audio": {"path": None}}, "rows.jsonl:2: field 'question_audio' holds no sound"),
        ({"text": "x", "question_text": "y"}, "rows.jsonl:2: 'text' is another name of 'question_text'"),
        ({"tasks": "A1T1"}, "rows.jsonl:2: field 'tasks' is 'A1T1'; a list of task names is expected"),
        ({"tasks": []}, "rows.jsonl:2: field 'tasks' is []"),
        ({"history": "hi"}, "rows.jsonl:2: field 'history' is a str; a list is expected"),
        ({"history": ["hi"]}, "rows.jsonl:2, turn 1 of the history is a str"),
        ({"history": [USER]}, "rows.jsonl:2: the history ends with the user's turn"),
        ({"history": [USER, USER]}, "rows.jsonl:2, turn 2 is the user's; the assistant's is expected"),
        (
            {"history": [USER, {"role": "asistant"}]},
            "rows.jsonl:2, turn 2: unknown role 'asistant'; did you mean 'assis",
        ),
        ({"history": [USER, {"role": "assistant"}]}, "rows.jsonl:2, turn 2 has no text"),
        (
            {"history": [{"role": "user", "txt": "x"}]},
            "rows.jsonl:2, turn 1: unknown field 'txt'; did you mean 'text'?",
        ),
        ({"history": [{"role": "user", "audio": "no.wav"}]}, "rows.jsonl:2, turn 1: sound file 'no.wav' doesn't exist"),
    ],
)
def test_a_wrong_line_is_named_and_the_next_one_follows(line: Any, words: str, tmp_path: Path) -> None:
    fine = {"question_text": "fine"}
    path = write_lines(tmp_path / "rows.jsonl", [fine, line, fine])
    first, bad, last = rows_of("jsonl", path)
    assert (first.id, last.id) == ("rows.jsonl:1", "rows.jsonl:3")
    assert isinstance(bad, BadRow)
    assert isinstance(last, Row)
    assert bad.reason.startswith(words)
    assert bad.hint
    with pytest.raises(DataError) as caught:
        list(strict_rows(source_of("jsonl", path).rows()))
    assert (caught.value.message, caught.value.hint) == (bad.reason, bad.hint)


def test_what_is_no_json_or_no_manifest_is_named(tmp_path: Path) -> None:
    latin = '{"question_text": "Grüße"}\n'.encode("latin-1")
    (tmp_path / "rows.jsonl").write_bytes(
        b'{"question_text": "fine"}\n{"question_text": \n' + latin + b'{"text": "x"}\n'
    )
    first, no_json, no_utf8, last = reasons(rows_of("jsonl", tmp_path / "rows.jsonl"))
    assert (first, last) == ("rows.jsonl:1", "rows.jsonl:4")
    assert no_json.startswith("rows.jsonl:2 is not JSON: ")
    assert no_utf8 == "rows.jsonl:3 is not UTF-8 text"
    assert refused("jsonl", "nowhere/other.jsonl") == "manifest 'nowhere/other.jsonl' doesn't exist"
    assert "nosuch://x/rows.jsonl" in refused("jsonl", "nosuch://x/rows.jsonl")
    assert "can't be read" in refused("jsonl", f"file://{tmp_path}/none.jsonl")


def test_a_manifest_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\n')
    assert good_rows("jsonl", tmp_path / "rows.jsonl")[0].question_text == "x"


def test_a_manifest_behind_an_address_has_its_sound_there_too(tmp_path: Path) -> None:
    tone_file(tmp_path / "sounds" / "q.wav")
    write_lines(tmp_path / "rows.jsonl", [{"audio": "sounds/q.wav"}])
    (row,) = good_rows("jsonl", f"file://{tmp_path}/rows.jsonl")
    assert isinstance(row.question_audio, Sound)
    assert row.question_audio.url == f"file://{tmp_path}/sounds/q.wav"
    assert is_heard(row.question_audio)


# ---- csv


def test_a_csv_manifest_has_the_same_fields(tmp_path: Path) -> None:
    tone_file(tmp_path / "q.wav")
    (tmp_path / "rows.csv").write_text(
        "audio,text,answer_text,speaker,history,tasks\n"
        'q.wav,"Hello, you",Hi.,anna,,"A1T2, A1T1"\n'
        "\n"
        ',"two\nlines",,,"[{""role"":""user"",""text"":""a""},{""role"":""assistant"",""text"":""b""}]","[""T1T2""]"\n',
        encoding="utf-8",
    )
    assert good_rows("csv", tmp_path / "rows.csv") == [
        Row(
            id="rows.csv:2",
            question_text="Hello, you",
            question_audio=tmp_path / "q.wav",
            answer_text="Hi.",
            speaker="anna",
            tasks=("A1T2", "A1T1"),
        ),
        Row(
            id="rows.csv:4",
            question_text="two\nlines",
            history=(Message(role="user", text="a"), Message(role="assistant", text="b")),
            tasks=("T1T2",),
        ),
    ]


@pytest.mark.parametrize(("name", "options"), [("rows.tsv", {}), ("rows.csv", {"delimiter": "\t"})])
def test_cells_between_tabs(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / name).write_text("text\tanswer_text\na, b\tc\n")
    (row,) = good_rows("csv", tmp_path / name, **options)
    assert (row.question_text, row.answer_text) == ("a, b", "c")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x", "rows.csv:3 has 1 cells; the header has 3"),
        ("x,,,", "rows.csv:3 has 4 cells; the header has 3"),
        ("x,none.wav,", "rows.csv:3: sound file 'none.wav' doesn't exist"),
        ("x,,{", "rows.csv:3: column 'history' is not JSON"),
        ('"x"y,,', "rows.csv:3 is not CSV"),
        ("x" * 200_000 + ",,", "rows.csv:3 is not CSV"),
        ("\udcfc,,", "rows.csv:3 is not UTF-8 text"),
    ],
)
def test_a_wrong_line_of_a_csv_is_named(line: str, words: str, tmp_path: Path) -> None:
    lines = f"text,audio,history\nfine,,\n{line}\nfine,,\n"
    (tmp_path / "rows.csv").write_bytes(lines.encode(errors="surrogateescape"))
    first, bad, last = reasons(rows_of("csv", tmp_path / "rows.csv"))
    assert (first, last) == ("rows.csv:2", "rows.csv:4")
    assert bad.startswith(words)


def test_quotes_that_are_never_closed_cost_the_rows_after_them(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text,audio\nfine,\n"x,\ny,\n')
    first, bad = reasons(rows_of("csv", tmp_path / "rows.csv"))
    assert first == "rows.csv:2"
    assert bad.startswith("rows.csv:3 is not CSV")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"anser_text\nx\n", "rows.csv:1: unknown column 'anser_text'; did you mean 'answer_text'?"),
        (b"text,text\nx,y\n", "rows.csv:1: column 'text' is there twice"),
        ("Grüße\nx\n".encode("latin-1"), "is not UTF-8 text"),
        ("text\nx\n".encode("utf-16"), "is not UTF-8 text"),
        (b'"text\nx\n', "rows.csv:1 is not CSV"),
        (b"text;answer_text\nx;y\n", "cells seem to end with ';'"),
    ],
)
def test_a_csv_that_is_none_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    assert words in refused("csv", tmp_path / "rows.csv")


# ---- reading a source of a data.yaml


def test_read_rows_stops_or_goes_on(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "a"}, {"txt": "b"}, {"text": "c"}, {"text": "d"}])
    source = SourceConfig(kind="jsonl", name="s", path=str(path), limit=3)
    assert [type(row) for row in read_rows(source, default_registry())] == [Row, BadRow, Row]
    strict = read_rows(source, default_registry(), strict=True)
    assert next(strict).question_text == "a"
    with pytest.raises(DataError, match=r"rows\.jsonl:2: unknown field 'txt'"):
        next(strict)


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", [{"text": "a"}, {"txt": "b"}])
    source = SourceConfig(kind="jsonl", name="s", path=str(lines), limit=1)
    assert len(list(read_rows(source, default_registry(), strict=True))) == 1


# ---- all kinds


def test_all_kinds_are_registered_and_documented() -> None:
    assert set(default_registry().components("data source")) >= KINDS
    page = (Path(__file__).parent.parent / "docs" / "data-formats.md").read_text(encoding="utf-8")
    for kind in KINDS:
        check_options("data source", kind)
        assert f"kind: {kind}\n" in page, kind
        for option in default_registry().load("data source", kind).Options.model_fields:
            assert f"`{option}`" in page, f"{kind}: {option}"


@pytest.mark.parametrize("kind", sorted(KINDS - {"jsonl", "csv"}))
def test_what_does_not_exist_is_refused_when_built(kind: str) -> None:
    with pytest.raises(DataError, match=r"'\./nowhere' doesn't exist"):
        source_of(kind, "./nowhere")


# ---- the check itself


class FromList(DataSource):
    """Gives what it was given: one list for each reading."""

    class Options(plugins.Options):
        path: str = Field("", description="Nowhere.")

    def __init__(self, *readings: list[Any]) -> None:
        self.readings, self.count = readings, 0

    @classmethod
    def build(cls, options: Any, context: Any) -> Any:
        raise NotImplementedError

    def rows(self) -> Iterator[Any]:
        reading = self.readings[min(self.count, len(self.readings) - 1)]
        self.count += 1
        return iter(reading)


def codes(array: np.ndarray) -> Row:
    return Row(id="a", answer_codes=CodecCodes(array, "x/1/1x2"))


@pytest.mark.parametrize(
    ("readings", "words"),
    [
        ([[]], "gives no rows"),
        ([["x"]], "yields a str"),
        ([[Row(id="a"), Row(id="a")]], "two rows are called 'a'"),
        ([[Row(id="")]], "empty id"),
        ([[Row(id="a")], [Row(id="a")], [Row(id="a")], [Row(id="b")]], "other rows the second time"),
        ([[BadRow(id="a", reason="wrong")]], "doesn't begin with its id"),
        ([[Row(id="a", question_audio=Path("q.wav"))]], "is a relative path"),
        ([[Row(id="a", answer_audio="q.wav")]], "is a str, not a Path or a Sound"),  # type: ignore[arg-type]
        ([[Row(id="a", question_audio=Sound(name="x"))]], "exactly one of data, samples and url"),
        ([[Row(id="a", question_audio=Sound(name="x", samples=np.zeros(3)))]], "samples need a sample_rate_hz"),
        ([[Row(id="a", question_text=3)]], "question_text is a int"),  # type: ignore[arg-type]
        ([[Row(id="a", tasks=["A1T1"])]], "tasks must be a tuple"),  # type: ignore[arg-type]
        ([[Row(id="a", history=(Message(role="assistant"),))]], "turn 1 of the history is empty"),
        ([[Row(id="a", history=(Message(role="bot", text="x"),))]], "has the role 'bot'"),
        ([[codes(np.zeros((7, 2), np.int32))]], "must be int64"),
        ([[codes(np.zeros(7, np.int64))]], r"must be \(K,F\)"),
        ([[codes(np.full((1, 1), -1))]], "hold -1"),
    ],
)
def test_the_check_catches(readings: list[list[Any]], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_data_source(FromList(*readings))


def test_the_check_returns_what_it_saw() -> None:
    rows = [codes(np.ones((7, 2), np.int64)), BadRow(id="b", reason="b: no")]
    assert check_data_source(FromList(rows)) == rows
    assert check_data_source(FromList(rows), max_rows=1) == rows[:1]
