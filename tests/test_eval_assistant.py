"""How the shipped talker is measured: test sets, suite, samples and card, on a tiny talker with a known judge."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from eval_parts import Tape, saved_talker
from helpers import write_lines

from anytalk.errors import AnytalkError, DataError, TalkerError
from anytalk.evaluate.config import read_suite
from anytalk.grid.audio import read_wave, write_wave
from anytalk.model.config import read_config
from anytalk.model.talker import Talker

FOLDER = Path(__file__).resolve().parent.parent / "examples/smollm2-assistant"
KINDS = ("capital", "plural", "weather")


@pytest.fixture
def parts() -> Iterator[dict[str, ModuleType]]:
    """The folder's scripts, and the folder on the path while a test runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: importlib.import_module(name) for name in ("voices", "eval_sets", "samples", "card")}


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    return saved_talker(tmp_path_factory.mktemp("assistant") / "tiny")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Small text sets as texts.py writes them."""
    folder = tmp_path / "texts"
    folder.mkdir()
    write_lines(
        folder / "questions.test.jsonl",
        [
            {"id": i, "kind": KINDS[i % 3], "question_text": f"Question {i}?", "expected": "yes" if i % 2 else None}
            for i in range(24)
        ],
    )
    write_lines(folder / "answers.test.jsonl", [{"id": "a", "kind": "fact", "text": f"Answer {i}."} for i in range(5)])
    (folder / "ordinary.test.txt").write_text("One sentence.\nAnother one.\n", encoding="utf-8")
    return folder


@pytest.fixture
def sets(parts: dict[str, ModuleType], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Test sets with hums in place of voices; `eval_sets.py texts eval`."""

    def hum(readings: list[Any], folder: Path) -> list[bool]:
        for reading in readings:
            wave = 0.3 * np.sin(np.arange(4_000) / len(reading.text))
            write_wave(folder / reading.file_name, wave.astype(np.float32), 16_000)
        return [reading.text != "Question 7?" or reading.voice != "rms" for reading in readings]

    monkeypatch.setattr(parts["eval_sets"], "read_aloud", hum)
    parts["eval_sets"].build(texts, tmp_path / "eval")
    return tmp_path / "eval"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_test_sets_are_what_the_suite_asks_for(sets: Path, parts: dict[str, ModuleType]) -> None:
    (sets.parent / "suite.yaml").write_text((FOLDER / "suite.yaml").read_text("utf-8"), encoding="utf-8")
    suite = read_suite(sets.parent / "suite.yaml")
    sources = [suite.source, *(measure.source for measure in suite.measures)]
    assert all(Path(source.path).is_file() for source in sources if source is not None)
    named = set(suite.metric_names())
    assert [line.name for line in parts["card"].LINES if line.name not in named] == []
    assert {measure.label: measure.limit for measure in suite.measures}["spoken_answers"] is None


def test_who_asks_what_is_written_down(sets: Path, parts: dict[str, ModuleType]) -> None:
    seen, unseen, readings = (rows_of(sets / f"{name}.jsonl") for name in ("seen", "unseen", "readings"))
    assert (len(seen), len(unseen)) == (24, 23)  # "Question 7?" can't be said by the second voice
    assert sum(row.get("answer_text") == "yes" for row in seen) == 12
    trained = {f"{engine}:{voice}" for engine, voice in parts["voices"].QUESTION_VOICES}
    assert {row["voice"] for row in readings if row["set"] == "seen"} <= trained
    assert {row["voice"] for row in readings if row["set"] == "unseen"} == {"flite:rms"}
    assert "flite:rms" not in trained
    assert all((sets / row["question_audio"]).is_file() for row in readings)


def test_the_pick_depends_on_the_texts_only(texts: Path, sets: Path, parts: dict[str, ModuleType]) -> None:
    path = texts / "questions.test.jsonl"
    path.write_text("".join(reversed(path.read_text("utf-8").splitlines(keepends=True))), encoding="utf-8")
    parts["eval_sets"].build(texts, sets.parent / "again", limit=6)
    for name in ("typed", "seen"):
        assert rows_of(sets.parent / "again" / f"{name}.jsonl") == rows_of(sets / f"{name}.jsonl")[:6]


def test_missing_texts_are_told(parts: dict[str, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"python texts\.py"):
        parts["eval_sets"].build(tmp_path / "nowhere", tmp_path / "eval")


def scripted(parts: dict[str, ModuleType], patch: pytest.MonkeyPatch, *lengths_s: float) -> None:
    """Let the talker answer with sounds of these lengths, again and again."""
    calls = [0]

    def answer(talker: Talker, question: np.ndarray) -> tuple[str, np.ndarray]:
        length = int(16_000 * lengths_s[calls[0] % len(lengths_s)])
        calls[0] += 1
        return "It costs $5 | or\n$6 <b>.", (0.2 * np.sin(np.arange(length) / 7)).astype(np.float32)

    patch.setattr(parts["samples"], "answer_of", lambda *asked: _joined(*answer(*asked)))


def _joined(text: str, wave: np.ndarray) -> tuple[str, np.ndarray]:
    return " ".join(text.split()), wave


def test_samples_are_small_spread_and_honest(
    sets: Path, parts: dict[str, ModuleType], talker: Talker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(parts, monkeypatch, 1.0, 6.1, 0.0)
    out = tmp_path / "samples"
    out.mkdir()
    (out / "99-answer.wav").write_bytes(b"of an earlier run")
    (out / "mine.txt").write_text("stays")
    monkeypatch.setattr(parts["samples"], "SAMPLES", 5)
    lines = parts["samples"].make_samples(talker, Tape(), sets, out)
    assert lines[-1] == "Answers left out on the way to these 5: 4 longer than 6 s, 4 without sound."
    files = {f"{i:02d}-{what}" for i in range(1, 6) for what in ("question.wav", "answer.wav", "answer.png")}
    assert {path.name for path in out.iterdir()} == files | {"mine.txt", "samples.md"}
    for path in out.glob("*.wav"):
        info = soundfile.info(str(path))
        assert (info.samplerate, info.subtype) == (16_000, "PCM_16")
    assert all(path.stat().st_size < 200_000 for path in out.iterdir())
    table = (out / "samples.md").read_text("utf-8").splitlines()
    assert table[0].startswith("| asked | voice |")
    assert all("| flite:rms | It costs $5 \\| or $6 &lt;b>. | noise | [question](" in line for line in table[2:7])


def test_a_picture_of_the_longest_noise_is_small(parts: dict[str, ModuleType], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 6 * 16_000).astype(np.float32)
    parts["samples"].draw_small(tmp_path / "noise.png", noise, "word " * 60)
    assert (tmp_path / "noise.png").stat().st_size < 200_000


def test_samples_take_each_kind_in_turn(sets: Path, parts: dict[str, ModuleType]) -> None:
    rows = parts["samples"].questions(sets)
    assert all({row["kind"] for row in rows[i : i + 3]} == set(KINDS) for i in (0, 3, 6))
    assert rows == parts["samples"].spread(rows[::-1])


def test_a_talker_that_is_really_asked(sets: Path, parts: dict[str, ModuleType], talker: Talker) -> None:
    question = read_wave(sets / rows_of(sets / "seen.jsonl")[0]["question_audio"], 16_000)
    text, wave = parts["samples"].answer_of(talker, question)
    assert "\n" not in text
    assert wave.dtype == np.float32
    assert wave.ndim == 1


def test_too_few_samples_and_other_mistakes_are_told(
    sets: Path, parts: dict[str, ModuleType], talker: Talker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(parts, monkeypatch, 0.0)
    with pytest.raises(DataError, match="only 0 of 10 samples: of 23 questions, 23 without sound"):
        parts["samples"].make_samples(talker, Tape(), sets, tmp_path / "samples")
    with pytest.raises(DataError, match=r"readings\.jsonl"):
        parts["samples"].make_samples(talker, Tape(), tmp_path, tmp_path / "samples")
    with monkeypatch.context() as patch:
        patch.setattr(talker.model, "encoder", None)
        with pytest.raises(TalkerError, match="no ears"):
            parts["samples"].make_samples(talker, Tape(), sets, tmp_path / "samples")


def report(folder: Path, sha256: str, **figures: dict[str, dict[str, Any]]) -> Path:
    """A report.json with these figures."""
    data = {
        "complete": True,
        "failed": [],
        "date": "2026-11-24T10:00:00+00:00",
        "machine": {"cpu": "a CPU", "cores": 2, "torch_threads": 2},
        "talker": {"config": {"weights": {"sha256": sha256}}},
        "suite": {"measures": [{"kind": "text_retention", "name": "", "max_tokens": 48}]},
        "measures": {
            label: {
                "kind": "latency" if label == "latency" else "asr",
                "load_average": 1.5,
                "figures": {
                    name: {"value": value, "n": 100, "low": value / 2, "high": value * 2}
                    for name, value in found.items()
                },
            }
            for label, found in figures.items()
        },
    }
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(data), encoding="utf-8")
    return folder / "report.json"


def line_of(table: list[str], name: str) -> list[str]:
    return next([cell.strip() for cell in line.split("|")][2:-1] for line in table if f"`{name}`" in line)


def test_the_card_takes_its_figures_from_reports(
    parts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "talker"
    places = "".join(f"<!-- {place} -->\n\n" for place in ("FIGURES", "STAGES", "SAMPLES", "OTHERS"))
    (tmp_path / "card.md").write_text(places, encoding="utf-8")
    monkeypatch.setattr(parts["card"], "HERE", tmp_path)
    saved_talker(folder)
    config = read_config(folder)
    sha256 = "" if config.weights is None else config.weights.sha256
    first = report(tmp_path / "one", sha256, asr_seen={"wer": 0.33}, asr_unseen={"wer": 0.30})
    ears = {"asr_unseen": {"wer": 0.12}, "latency": {"real_time_factor": 1.2, "first_sound_p50_s": 0.8}}
    second = report(tmp_path / "two", "f" * 64, **ears)
    with pytest.raises(DataError, match=r"samples\.py"):
        parts["card"].write_card(folder, [first])
    (folder / "samples").mkdir()
    (folder / "samples" / "samples.md").write_text("| [answer](01-answer.wav) |\n", encoding="utf-8")
    table = parts["card"].write_card(folder, [first, second])
    seen = ["**33.0 %**", "16.5 % to 66.0 %", "100", "at most 8.0 %", "at most 20.0 %", "**not the floor**"]
    assert line_of(table, "asr_seen.wer") == seen
    assert line_of(table, "asr_unseen.wer")[0] == "**12.0 %**"  # the later report's
    assert line_of(table, "asr_unseen.wer")[-1] == "target"
    assert line_of(table, "latency.real_time_factor")[-1] == "not the target"
    assert line_of(table, "latency.first_sound_p50_s")[-1] == "target"
    assert line_of(table, "ordinary.wer")[0] == "not measured"
    page = (folder / "README.md").read_text("utf-8")
    assert all(line in page for line in table)
    assert "](samples/01-answer.wav)" in page
    assert "- `one/report.json`: asr_seen, asr_unseen: 2026-11-24, a CPU, 2 cores, 2 thread(s); " in page
    assert "answers of 'text_retention' compared up to 48 tokens" in page
    assert "load average when 'latency' ended: 1.5" in page
    assert "other weights than those of this folder (ffffffffffffffff)" in page
    assert "nothing fills: OTHERS" in capsys.readouterr().err


def test_shares_and_errors_are_judged_the_right_way_round(parts: dict[str, ModuleType]) -> None:
    lines = {line.name: line for line in parts["card"].LINES}
    kept = lines["modality_gap.answer_agreement"]
    assert [kept.reached(value) for value in (0.9, 0.8, 0.7)] == ["target", "floor", "**not the floor**"]
    spoken = lines["spoken_answers.wer"]
    assert [spoken.reached(value) for value in (0.05, 0.2, 0.3)] == ["target", "floor", "**not the floor**"]
    assert lines["answers.wer"].reached(0.5) == ""


def test_a_report_that_is_none_is_told(parts: dict[str, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(AnytalkError, match="can't be read"):
        parts["card"].read_report(tmp_path / "report.json")
