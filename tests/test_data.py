"""Rows to examples: what a task needs of them, and their sound as numbers."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from helpers import make_examples, tiny_talker, training_rows, write_lines

from anytalk.data.batches import LaidRow
from anytalk.data.encoding import RowEncoder
from anytalk.data.examples import make_grid, without_sound
from anytalk.data.feeds import remembered
from anytalk.data.opening import TrainingData
from anytalk.errors import ConfigError, DataError
from anytalk.grid.audio import resample, write_wave
from anytalk.grid.tasks import T1T2, TASKS
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Row


@pytest.fixture
def talker(tmp_path: Path) -> Talker:
    return tiny_talker(tmp_path / "t")


# Examples


@pytest.mark.parametrize(
    ("task", "needed"),
    [
        ("A1A2", {"question_audio", "answer_audio", "answer_text"}),
        ("A1T2", {"question_audio", "answer_text"}),
        ("A1T1", {"question_audio", "question_text"}),
        ("T1A2", {"question_text", "answer_text", "answer_audio"}),
        ("T1T2", {"question_text", "answer_text"}),
        ("T1A1", {"answer_text", "answer_audio"}),
    ],
)
def test_a_task_names_the_row_without_what_it_needs(
    task: str, needed: set[str], talker: Talker, tmp_path: Path
) -> None:
    fields = ["question_text", "question_audio", "answer_text", "answer_audio"]
    good = training_rows(tmp_path, 2)
    for field in fields:
        without: dict[str, Any] = {field: None}
        rows = [good[0], replace(good[1], **without)]
        if field in needed:
            data = TrainingData(rows=rows)
            feed = data.feeds(talker, [TASKS[task]])[0]
            assert feed.indices(task).tolist() == [0]
            (left_out,) = data.left_out
            assert (left_out.row, left_out.kind) == (1, "serves no task")
            assert left_out.id.endswith("rows.jsonl:2")
            assert left_out.reason == f"task {task} needs '{field}'"
        else:
            make_grid(talker, make_examples(talker, rows, [TASKS[task]])[1], TASKS[task])


def test_no_rows_and_no_ears_are_sentences(tmp_path: Path, talker: Talker) -> None:
    with pytest.raises(DataError, match="no rows"):
        make_examples(talker, [], [TASKS["T1T2"]])
    deaf = tiny_talker(tmp_path / "deaf", "encoder=null")
    rows = training_rows(tmp_path, 1)
    make_examples(deaf, rows, [TASKS["T1A2"]])
    with pytest.raises(ConfigError, match="no ears; the tasks A1T2"):
        make_examples(deaf, rows, [TASKS["T1A2"], TASKS["A1T2"]])


@pytest.mark.parametrize(
    ("break_sound", "words"),
    [
        (lambda path: path.write_bytes(b"no sound"), "not a sound file"),
        (lambda path: write_wave(path, np.zeros(3200, np.float32), 16_000), "is silent"),
        (lambda path: write_wave(path, np.ones(10, np.float32), 16_000), "lasts"),
        (lambda path: path.unlink(), "doesn't exist"),
    ],
)
def test_bad_sound_names_its_row(
    break_sound: Callable[[Path], None], words: str, talker: Talker, tmp_path: Path
) -> None:
    rows = training_rows(tmp_path, 2)
    break_sound(tmp_path / "q1.wav")
    data = TrainingData(rows=rows)
    assert data.feeds(talker, [TASKS["A1T1"]])[0].indices("A1T1").tolist() == [0]
    (left_out,) = data.left_out
    assert left_out.id.endswith("rows.jsonl:2")
    assert words in left_out.reason
    make_examples(talker, rows, [TASKS["T1A2"]])  # a typed task doesn't read the question's sound


def test_other_sample_rates_are_resampled(talker: Talker, tmp_path: Path) -> None:
    time = np.arange(8_000) / 16_000
    wave = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    stereo = np.repeat(resample(wave, 16_000, 44_100)[:, None], 2, axis=1)
    soundfile.write(tmp_path / "b.wav", stereo, 44_100, subtype="FLOAT")
    rows = [
        Row(id=n, question_audio=tmp_path / n, answer_audio=tmp_path / n, answer_text="x") for n in ("a.wav", "b.wav")
    ]
    first, second = make_examples(talker, rows, [TASKS["A1A2"]])
    assert first.clip is not None
    assert second.clip is not None
    assert first.clip.num_frames == second.clip.num_frames == 25
    assert first.clip.duration_s == pytest.approx(0.5)
    assert first.clip.features is not None
    assert second.clip.features is not None
    assert torch.allclose(first.clip.features[1:-2], second.clip.features[1:-2], atol=0.1)
    assert first.codes is not None
    assert second.codes is not None
    assert first.codes.shape == second.codes.shape == (3, 25)
    expected = talker.codec.encode(torch.from_numpy(resample(wave, 16_000, 8_000))[None])[0]
    assert np.array_equal(first.codes, expected.numpy())


def test_waves_are_kept_only_for_a_stage_that_trains_the_ears(talker: Talker, tmp_path: Path) -> None:
    rows, seen = training_rows(tmp_path, 2), []
    plain = make_examples(talker, rows, [TASKS["A1T1"]], progress=lambda done, total: seen.append((done, total)))
    kept = make_examples(talker, rows, [TASKS["A1T1"]], keep_waves=True)
    assert seen == [(1, 2), (2, 2)]
    clips = [[e.clip for e in examples if e.clip is not None] for examples in (plain, kept)]
    assert [clip.wave for clip in clips[0]] == [None, None]
    assert [clip.wave.shape[0] for clip in clips[1] if clip.wave is not None] == [3200, 3200]
    assert [clip.num_frames for clip in [*clips[0], *clips[1]]] == [10] * 4
    assert [e.codes for e in plain] == [None, None], "nothing speaks"
    light = without_sound(kept[0])
    assert light.clip is not None
    assert (light.clip.features, light.clip.wave, light.clip.num_frames) == (None, None, 10)
    assert np.array_equal(
        make_grid(talker, light, TASKS["A1T1"]).tokens, make_grid(talker, kept[0], TASKS["A1T1"]).tokens
    )


# What is checked where rows enter


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question_text": "q", "answer_text": "half \\ud83d"}', "half of a character"),
        ('{"question_text": "q", "answer_text": "a\\u0000b"}', "NUL"),
        ('{"question_text": "q", "answer_text": " \\n"}', "its answer is empty"),
        ('{"question_text": "q", "answer_text": "a", "question_audio": "UklGR' + "A" * 6000 + '"}', "doesn't exist"),
        ('{"question_text": "q", "answer_text": "a", "question_audio": "a\\u0000b.wav"}', "doesn't exist"),
        ('{"question_text": "q", "answer_text": "a", "question_audio": {"bytes": "UklGRg=="}}', "m.jsonl:2"),
        ('{"question_text": ' + "[" * 30_000 + "]" * 30_000 + "}", "m.jsonl:2"),
    ],
)
def test_one_bad_row_is_one_bad_row(line: str, words: str, talker: Talker, tmp_path: Path) -> None:
    good = '{"question_text": "q", "answer_text": "a"}'
    (tmp_path / "m.jsonl").write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8")
    data = TrainingData(str(tmp_path / "m.jsonl"))
    assert data.feeds(talker, [TASKS["T1T2"]])[0].indices("T1T2").tolist() == [0, 1]
    (left_out,) = data.left_out
    assert (left_out.row, left_out.id, left_out.kind) == (1, "m.jsonl:2", "broken row")
    assert words in left_out.reason
    assert len(left_out.reason) < 500


@pytest.mark.parametrize("error", [MemoryError(), OSError(36, "File name too long"), RecursionError(), KeyError("x")])
def test_whatever_a_row_raises_is_its_reason(
    error: Exception, talker: Talker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = training_rows(tmp_path, 3)
    encode = RowEncoder._encoded

    def sometimes(self: RowEncoder, row: Row, *arguments: Any) -> Any:
        if row is rows[1]:
            raise error
        return encode(self, row, *arguments)

    monkeypatch.setattr(RowEncoder, "_encoded", sometimes)
    data = TrainingData(rows=rows)
    assert len(data.feeds(talker, [TASKS["T1T2"]])[0].indices("T1T2")) == 2
    assert [(r.row, r.kind) for r in data.left_out] == [(1, "failed")]
    assert type(error).__name__ in data.left_out[0].reason


def test_answers_that_cant_be_their_text_are_bad_rows(talker: Talker, tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 5)
    write_wave(tmp_path / "click.wav", np.full(10, 0.5, np.float32), 8_000)
    write_wave(tmp_path / "silence.wav", np.zeros(8_000, np.float32), 8_000)
    rows[1] = replace(rows[1], answer_audio=tmp_path / "click.wav")
    rows[2] = replace(rows[2], answer_audio=tmp_path / "silence.wav")
    rows[3] = replace(rows[3], answer_text="word " * 400)
    data = TrainingData(rows=rows)
    assert len(data.feeds(talker, [TASKS["T1A2"]])[0].indices("T1A2")) == 2
    assert [(r.row, r.kind) for r in data.left_out] == [(n, "not its text") for n in (1, 2, 3)]


def test_as_many_other_rows_are_other_data(talker: Talker, tmp_path: Path) -> None:
    def seen(rows: list[Row]) -> dict[str, int | str]:
        return remembered(TrainingData(rows=rows).feeds(talker, [TASKS["A1T1"]]), ["A1T1"])

    rows = training_rows(tmp_path, 3)
    first = seen(rows)
    assert first == seen(rows)
    assert first != seen([rows[0], replace(rows[1], answer_text="another"), rows[2]])
    assert first != seen([rows[1], rows[0], rows[2]])
    write_wave(tmp_path / "q1.wav", np.full(3200, 0.2, np.float32), 16_000)
    assert first != seen(rows)


def test_rows_longer_than_the_models_positions_are_bad_rows(
    talker: Talker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(
        tmp_path / "m.jsonl",
        [{"question_text": "Q?", "answer_text": "short"}, {"question_text": "Q?", "answer_text": "long " * 80}],
    )
    monkeypatch.setattr(type(talker.model.backbone), "max_positions", 300)
    data = TrainingData(str(path))
    (feed,) = data.feeds(talker, [T1T2])
    assert len(feed.indices("T1T2")) == 1
    (bad,) = data.left_out
    assert (bad.row, bad.kind) == (1, "too long for the model")
    assert re.search(r"m.jsonl:2: it takes \d+ columns for T1T2, and the model has 300 positions", bad.reason)
    row = feed.outline(0)
    with pytest.raises(DataError, match="300 positions"):
        LaidRow(talker, replace(row, answer_text="long " * 80), T1T2, False)
