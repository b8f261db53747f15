"""`anytalk prepare`, `data preview` and `data stats` as commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import tiny_talker, training_rows, write_lines
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.cli.data_stats import hours
from anytalk.data.config import DataConfig
from anytalk.data.preview import around_answer, draw_example, prepared_previews, source_previews
from anytalk.data.stats import config_stats, prepared_stats, quantiles
from anytalk.errors import AudioError
from anytalk.grid.audio import sound_length_s
from anytalk.grid.draw import GridPicture
from anytalk.grid.tasks import find_task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Sound
from anytalk.plugins.registry import default_registry


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(build_app(), [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A talker, a data.yaml and what was prepared from it."""
    folder = tmp_path_factory.mktemp("preview")
    tiny_talker(folder / "tiny")
    training_rows(folder, 5)
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    write_lines(folder / "rows.jsonl", [{**lines[0], "speaker": "ann"}, {"odd": 1}, *lines[1:]])
    write_lines(folder / "texts.jsonl", [{"question_text": "Who?", "answer_text": "Me."}])
    sources = [
        {"kind": "jsonl", "name": "spoken", "path": "rows.jsonl"},
        {"kind": "jsonl", "name": "typed", "path": "texts.jsonl"},
    ]
    (folder / "data.yaml").write_text(json.dumps({"sources": sources}))
    result = run("prepare", folder / "data.yaml", "-o", folder / "shards", "--talker", folder / "tiny", "--keep-sound")
    assert "broken row 1" in result.output
    assert f"anytalk train {folder / 'tiny'} --data {folder / 'shards'}" in result.output
    return folder


@pytest.fixture(scope="module")
def talker(place: Path) -> Talker:
    from anytalk.model.talker import load_talker

    return load_talker(place / "tiny")


def config(place: Path) -> DataConfig:
    from anytalk.data.config import read_data_config

    return read_data_config(place / "data.yaml")


def test_stats_of_a_prepared_folder(place: Path) -> None:
    spoken, typed = prepared_stats(place / "shards")
    assert (spoken.name, spoken.rows, spoken.kept, spoken.complete) == ("spoken", 6, 5, True)
    assert spoken.question_hours * 3600 == pytest.approx(5 * 0.2)
    assert spoken.answer_hours * 3600 == pytest.approx(5 * 4 / 50)
    assert spoken.question_quantiles_s == pytest.approx((0.2,) * 4)
    assert spoken.voices == {"": 4, "ann": 1}
    assert spoken.rejected == {"broken row": 1}
    assert spoken.tasks == dict.fromkeys(("A1A2", "A1T1", "A1T2", "T1A1", "T1A2", "T1T2"), 5)
    assert (typed.tasks, typed.question_quantiles_s) == ({"T1T2": 1}, ())


def test_stats_of_sources_agree_with_those_of_their_shards(place: Path) -> None:
    raw = config_stats(config(place), default_registry())
    for source, shards in zip(raw, prepared_stats(place / "shards"), strict=True):
        assert source.question_hours == pytest.approx(shards.question_hours)
        assert source.answer_hours == pytest.approx(shards.answer_hours)
        for field in ("name", "rows", "kept", "tasks", "voices", "rejected"):
            assert getattr(source, field) == getattr(shards, field), field
    with_voice = config(place).model_copy(update={"voice": {}})
    assert config_stats(with_voice, default_registry())[1].tasks["A1A2"] == 1


def test_stats_as_json_and_as_tables(place: Path) -> None:
    found = json.loads(run("data", "stats", place / "shards", "--json").stdout)
    assert [source["rows"] for source in found] == [6, 1]
    shown = run("data", "stats", place / "data.yaml").output
    assert "broken row" in shown
    assert "ann 1" in shown


def test_lengths() -> None:
    assert quantiles([1.0]) == (1.0, 1.0, 1.0, 1.0)
    assert quantiles([float(i) for i in range(101)]) == pytest.approx((5, 50, 95, 100))
    assert sound_length_s(Sound(name="s", samples=np.zeros(800), sample_rate_hz=8_000)) == 0.1
    assert sound_length_s(Sound(name="s", url="s3://x/y.wav")) is None
    with pytest.raises(AudioError, match="doesn't exist"):
        sound_length_s(Path("nowhere.wav"))
    assert [hours(h) for h in (0.001, 0.5, 2)] == ["3.6 s", "30.0 min", "2.00 h"]


def test_previews_of_sources_are_those_of_their_shards(place: Path, talker: Talker) -> None:
    raw = source_previews(config(place), 9, default_registry(), talker)
    assert [(p.id, p.reason is None) for p in raw][:2] == [("rows.jsonl:1", True), ("rows.jsonl:2", False)]
    made = prepared_previews(str(place / "shards"), 9)
    assert [p.id for p in made] == [p.id for p in raw if p.reason is None]
    for ours, theirs in zip((p for p in raw if p.example), made, strict=True):
        assert ours.example is not None
        assert theirs.example is not None
        task = find_task(ours.example.tasks[0])
        first, second = (draw_example(talker, e, task) for e in (ours.example, theirs.example))
        assert (first.labels, first.kinds, first.num_prompt) == (second.labels, second.kinds, second.num_prompt)
        assert np.array_equal(first.learnt, second.learnt)
    assert [p.id for p in prepared_previews(str(place / "shards"), 2, "A1A2")] == ["rows.jsonl:1", "rows.jsonl:6"]


def test_a_wide_grid_is_cut_around_its_answer() -> None:
    labels = (tuple(str(i) for i in range(100)),)
    drawn = GridPicture(("text",), labels, (("text",) * 100,), np.arange(100)[None] >= 60, 60)
    cut, first = around_answer(drawn, 30)
    assert (first, cut.num_columns, cut.num_prompt) == (50, 30, 10)
    assert cut.labels[0][10] == "60"
    assert cut.learnt[0].tolist() == [False] * 10 + [True] * 20
    assert around_answer(drawn, 0) == (drawn, 0)
    assert around_answer(drawn, 95)[1] == 5


def test_preview_prints_and_writes(place: Path, tmp_path: Path) -> None:
    result = run("data", "preview", place / "shards", "-n", 1, "--task", "a1a2", "-o", tmp_path / "out")
    assert "q0?" in result.output
    assert "answer_a" in result.output
    assert "tokens in the loss" in result.output
    stem = tmp_path / "out" / "spoken-rows.jsonl-1"
    names = sorted(path.name.removeprefix(stem.name) for path in (tmp_path / "out").iterdir())
    assert names == ["-A1A2.png", "-answer.png", "-answer.wav", "-question.png", "-question.wav"]
    question, rate_hz = soundfile.read(f"{stem}-question.wav")
    original, original_hz = soundfile.read(place / "q0.wav")
    assert rate_hz == original_hz
    assert np.allclose(question, original, atol=2 / 32768)
    answer, _ = soundfile.read(f"{stem}-answer.wav")
    assert np.allclose(answer, soundfile.read(place / "a0.wav")[0], atol=3 / 32768)


def test_preview_of_sources_without_a_talker_says_what_is_missing(place: Path) -> None:
    result = run("data", "preview", place / "data.yaml")
    assert "unknown field 'odd'" in result.output
    assert "0.20 s" in result.output
    assert "--talker" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "preview", "{place}/shards", "--task", "A1A3"), "unknown task 'A1A3'"),
        (("data", "preview", "{place}/tiny"), "has no prepared.yaml"),
        (("data", "stats", "nowhere.yaml"), "doesn't exist"),
        (("prepare", "nowhere.yaml", "-o", "x", "--talker", "{place}/tiny"), "doesn't exist"),
        (("prepare", "{place}/data.yaml", "-o", "x", "--talker", "{place}"), "has no talker.yaml"),
        (
            ("prepare", "{place}/data.yaml", "-o", "x", "--talker", "{place}/tiny", "--half", "--no-features"),
            "--half applies to features",
        ),
        (("prepare", "{place}/data.yaml", "-o", "{place}", "--talker", "{place}/tiny"), "holds other files"),
        (("prepare", "{place}/data.yaml", "-o", "{place}/shards", "--talker", "{place}/tiny"), "sound was true"),
    ],
)
def test_mistakes_are_sentences(place: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*(a.format(place=place) for a in arguments), code=1)
    assert message in result.output


def test_preview_with_another_talker_is_refused(place: Path, tmp_path: Path) -> None:
    tiny_talker(tmp_path / "other", "codec.options.seed=1")
    result = run("data", "preview", place / "shards", "--talker", tmp_path / "other", code=1)
    assert "another codec" in result.output


def test_a_path_longer_than_a_file_name_may_be_is_no_file_beside(tmp_path: Path) -> None:
    from anytalk.data.config import read_data_config

    path = "c" * 300
    (tmp_path / "data.yaml").write_text(f"sources: [{{kind: jsonl, path: {path}}}]\n", encoding="utf-8")
    assert read_data_config(tmp_path / "data.yaml").sources[0].path == path
