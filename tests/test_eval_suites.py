"""Suites as files: where their rows are, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from eval_parts import write
from helpers import tiny_talker
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.errors import ConfigError, DataError
from anytalk.evaluate.compared import compared
from anytalk.evaluate.config import read_suite
from anytalk.evaluate.results import Result
from anytalk.evaluate.stats import Figure

ROOT = Path(__file__).resolve().parent.parent
HEARING_SETS = (
    "commonvoice-en",
    "coffee-commands",
    "librispeech-test-other",
    "speechocean762-heldout",
    "game-drascula-questions",
)


def test_paths_of_a_suite_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    source = {"kind": "jsonl", "path": "rows.jsonl"}
    hub = {"kind": "hf", "path": "org/set"}
    measures = [{"kind": "asr"}, {"kind": "text_retention", "texts_file": "t.txt", "source": hub}]
    suite = read_suite(write(tmp_path / "s.yaml", {"source": source, "measures": measures}))
    assert suite.source is not None
    assert suite.source.path == str(tmp_path / "rows.jsonl")
    assert suite.measures[1].source is not None
    assert suite.measures[1].source.path == "org/set"
    assert suite.measures[1].texts_file == str(tmp_path / "t.txt")  # type: ignore[union-attr]


HERE = {"kind": "jsonl", "path": "x"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"measures": [{"kind": "asr"}]}, "has no source"),
        ({"measures": []}, "measures"),
        (
            {"source": {"kind": "jsonl", "path": "x"}, "measures": [{"kind": "asr"}] * 2},
            "two measures are called 'asr'",
        ),
        ({"source": {"kind": "jsonl", "path": "x"}, "measures": [{"kind": "ars"}]}, "ars"),
        ({"source": {"kind": "jsonl", "path": "x", "weight": 2}, "measures": [{"kind": "asr"}]}, "has no weight"),
        ({"source": {"kind": "jsonl", "path": "x"}, "measures": [{"kind": "asr", "ask": ["text"]}]}, "ask"),
        ({"source": HERE, "measures": [{"kind": "reading", "augment": [{"name": "room"}]}]}, "hears no question"),
        ({"source": HERE, "measures": [{"kind": "asr"}, {"kind": "pooled", "of": ["asf"]}]}, "did you mean 'asr'"),
        ({"source": HERE, "measures": [{"kind": "pooled", "of": ["asr"]}, {"kind": "asr"}]}, "comes before it"),
        ({"source": HERE, "measures": [{"kind": "latency"}, {"kind": "pooled", "of": ["latency"]}]}, "no word errors"),
        ({"source": HERE, "measures": [{"kind": "asr"}, {"kind": "pooled", "of": ["asr"], "limit": 2}]}, "no limit"),
        (
            {"source": HERE, "measures": [{"kind": "asr"}], "published": [{"name": "a", "figures": {"asf": 0.1}}]},
            "no measure of word errors is called 'asf'.*did you mean 'asr'",
        ),
        ({"source": {"kind": "jsonl", "path": "${UNSET_FOLDER}/x"}, "measures": [{"kind": "asr"}]}, "isn't set"),
        ([1], "not well-formed"),
    ],
)
def test_a_wrong_suite_says_what_is_wrong(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_suite(write(tmp_path / "s.yaml", data))


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="doesn't exist"):
        read_suite(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_text("a: [")
    with pytest.raises(DataError, match="as YAML"):
        read_suite(tmp_path / "s.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "suites").glob("*.yaml")), ids=lambda p: p.stem)
def test_suites_of_the_examples_are_well_formed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HEARING_SETS:
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "manifest.jsonl").touch()
    monkeypatch.setenv("ANYTALK_SPEECH", str(tmp_path))
    suite = read_suite(path)
    assert suite.metric_names()
    for measure in suite.measures:
        if measure.kind == "text_retention" and measure.texts_file is not None:
            assert Path(measure.texts_file).is_file()


def test_recordings_that_are_not_there_are_left_out_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.jsonl").touch()
    monkeypatch.delenv("RECORDINGS", raising=False)
    data = {
        "measures": [
            {"kind": "asr", "source": {"kind": "jsonl", "path": "here.jsonl"}},
            {"kind": "asr", "name": "people", "source": {"kind": "jsonl", "path": "${RECORDINGS:-far}/m.jsonl"}},
            {"kind": "pooled", "of": ["asr", "people"]},
        ]
    }
    path = write(tmp_path / "s.yaml", data)
    suite = read_suite(path)
    assert [measure.label for measure in suite.measures] == ["asr"]
    assert suite.left_out.startswith("2 measures (people, pooled) left out: 'far/m.jsonl' isn't there; set RECORDINGS")
    # Relative to the suite without the variable, to the current folder with it.
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "m.jsonl").touch()
    whole = read_suite(path)
    assert (whole.left_out, len(whole.measures)) == ("", 3)
    monkeypatch.chdir(tmp_path / "far")
    monkeypatch.setenv("RECORDINGS", ".")
    assert read_suite(path).measures[1].source.path == str(tmp_path / "far" / "m.jsonl")  # type: ignore[union-attr]


def test_a_suite_of_absent_recordings_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_talker(tmp_path / "t")
    monkeypatch.setenv("ANYTALK_SPEECH", str(tmp_path / "none"))
    suite = str(ROOT / "examples" / "suites" / "hearing.yaml")
    done = CliRunner().invoke(build_app(), ["eval", str(tmp_path / "t"), "--suite", suite, "-o", str(tmp_path / "r")])
    assert done.exit_code == 1
    said = " ".join(done.stderr.split())
    assert "all measures left out" in said
    assert "set ANYTALK_SPEECH to the folder of the recordings" in said
    assert not (tmp_path / "r").exists()


def test_librispeech_is_measured_as_far_as_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTALK_SPEECH", str(tmp_path / "none"))
    monkeypatch.setenv("LIBRISPEECH", str(tmp_path))
    (tmp_path / "test-other").mkdir()
    suite = read_suite(ROOT / "examples" / "suites" / "librispeech.yaml")
    assert [measure.label for measure in suite.measures] == ["test_other"]
    assert suite.left_out.startswith("4 measures (test_clean, dev_clean, dev_other, test_other_part) left out")
    result = Result("test_other", "asr", "wer")
    result.keep(wer=Figure(0.25, 100, 0.2, 0.3), transcriber_wer=Figure(0.5, 100))
    made = compared(suite, "mine", [result])
    assert made is not None
    columns, rows = made
    assert columns == ["word errors, %", "test_clean", "test_other (n 100)", "dev_clean", "dev_other"]
    assert rows[2:] == [
        ["Mini-Omni (the paper)", "4.5", "9.7", "4.6", "9.2"],
        ["whisper, measured here", "-", "50.0", "-", "-"],
        ["mine, measured here", "-", "25.0 (20.0 to 30.0)", "-", "-"],
    ]
    result.transcriber = "Whisper base"
    named = compared(suite, "mine", [result])
    assert named is not None
    assert named[1][-2] == ["Whisper base, measured here", "-", "50.0", "-", "-"]
    assert compared(suite.model_copy(update={"published": []}), "mine", [result]) is None
