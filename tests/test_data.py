"""Manifests, examples, the order of the data, and batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from helpers import tiny_talker, training_rows, write_lines

from anytalk.data.batches import batch_indices, batch_tasks, collate
from anytalk.data.examples import Example, make_examples, make_grid
from anytalk.data.manifest import write_manifest
from anytalk.errors import ConfigError, DataError
from anytalk.grid.audio import resample, write_wave
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.plugins import PartRef
from anytalk.plugins.contracts import Row
from anytalk.plugins.registry import default_registry
from anytalk.train.losses import LossWeights, batch_loss, grid_batch


def read(path: Path) -> list[Row]:
    return list(default_registry().build("data source", PartRef(name="jsonl", options={"path": str(path)})).rows())


@pytest.fixture
def talker(tmp_path: Path) -> Talker:
    return tiny_talker(tmp_path / "t")


# Manifests


def test_rows_come_in_order_with_paths_beside_the_manifest(tmp_path: Path) -> None:
    write_wave(tmp_path / "q.wav", np.zeros(100, np.float32), 16_000)
    path = tmp_path / "rows.jsonl"
    write_manifest(path, [{"question_audio": "q.wav", "speaker": "anna"}, {"answer_text": "Grüße 🐝"}])
    path.write_text(path.read_text(encoding="utf-8").replace("\n", "\n\n", 1), encoding="utf-8")
    first, second = read(path)
    assert first == Row(id="rows.jsonl:1", question_audio=tmp_path / "q.wav", speaker="anna")
    assert second == Row(id="rows.jsonl:3", answer_text="Grüße 🐝")
    assert [p.name for p in tmp_path.glob("*.jsonl*")] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"anser_text": "x"}, "rows.jsonl:2: unknown field 'anser_text'; did you mean 'answer_text'?"),
        ({"answer_text": 3}, "rows.jsonl:2: field 'answer_text' is a int"),
        (["x"], "rows.jsonl:2 is a JSON list"),
        ({"question_audio": "none.wav"}, "rows.jsonl:2: sound file 'none.wav' doesn't exist"),
    ],
)
def test_a_wrong_line_is_named(line: Any, words: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"question_text": "fine"}, line])
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.message.startswith(words)
    assert caught.value.hint


def test_what_is_no_json_or_no_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question_text": "fine"}\n{"question_text": \n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2 is not JSON"):
        read(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="doesn't exist"):
        read(tmp_path / "other.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"question_text": "Grüße"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read(tmp_path / "latin.jsonl")


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
            with pytest.raises(DataError, match=rf"rows\.jsonl:2: task {task} needs '{field}'"):
                make_examples(talker, rows, [TASKS[task]])
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
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{words}"):
        make_examples(talker, rows, [TASKS["A1T1"]])
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
    assert first.num_frames == second.num_frames == 25
    assert first.features is not None
    assert second.features is not None
    assert torch.allclose(first.features[1:-2], second.features[1:-2], atol=0.1)
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
    assert [e.wave for e in plain] == [e.features for e in kept] == [None, None]
    assert [e.wave.shape[0] for e in kept if e.wave is not None] == [3200, 3200]
    assert [e.num_frames for e in plain] == [e.num_frames for e in kept] == [10, 10]
    assert [e.codes for e in plain] == [None, None]


# The order


@pytest.mark.parametrize(("num_examples", "batch_size"), [(7, 3), (2, 5), (1, 4)])
def test_each_epoch_is_a_permutation(num_examples: int, batch_size: int) -> None:
    order = [i for step in range(21) for i in batch_indices(3, step, batch_size, num_examples)]
    epochs = [order[i : i + num_examples] for i in range(0, len(order) - num_examples + 1, num_examples)]
    assert all(sorted(epoch) == list(range(num_examples)) for epoch in epochs)
    if num_examples > 2:
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_are_pure_functions_of_seed_and_step() -> None:
    np.random.seed(1)
    first = [(batch_indices(5, s, 4, 100), batch_tasks(5, s, 4, [1, 2])) for s in range(10)]
    np.random.seed(2)
    again = [(batch_indices(5, s, 4, 100), batch_tasks(5, s, 4, [1, 2])) for s in reversed(range(10))]
    assert first == again[::-1]
    assert batch_indices(5, 0, 4, 100) != batch_indices(6, 0, 4, 100)


def test_tasks_are_drawn_by_weight_within_a_batch() -> None:
    drawn = batch_tasks(0, 0, 4000, [1.0, 3.0])
    assert sum(drawn) / 4000 == pytest.approx(0.75, abs=0.03)
    assert set(batch_tasks(0, 1, 8, [2.0])) == {0}


# Collation


def examples_of(talker: Talker, folder: Path) -> list[Example]:
    """Two rows whose questions and answers differ in length."""
    short = training_rows(folder, 1, num_frames=3)
    (folder / "long").mkdir()
    long = training_rows(folder / "long", 1, num_frames=6, question_s=0.35)
    return make_examples(talker, [short[0], replace(long[0], answer_text="longer")], TASKS.values())


def test_padding_is_invisible_to_the_loss(talker: Talker, tmp_path: Path) -> None:
    short, long = examples_of(talker, tmp_path)
    names = ["A1A2", "T1T2", "A1T1", "T1A2"]
    items = [(e, make_grid(talker, e, TASKS[n])) for e, n in zip([short, long, short, long], names, strict=True)]
    layout = talker.model.layout
    _, together = batch_loss(talker.model, collate(layout, items, [], "cpu"), LossWeights())
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for item in items:
        _, alone = batch_loss(talker.model, collate(layout, [item], [], "cpu"), LossWeights())
        mask = item[1].loss_mask[:, 1:].sum(axis=1)
        for name, row in [("text", layout.text_row), ("audio0", 0), ("audio1", 1), ("audio2", 2)]:
            if mask[row]:
                sums[name] = sums.get(name, 0.0) + alone[name] * int(mask[row])
                counts[name] = counts.get(name, 0) + int(mask[row])
    for name, total in sums.items():
        assert together[name] == pytest.approx(total / counts[name], rel=1e-5)


def test_a_batch_holds_what_its_rows_hold(talker: Talker, tmp_path: Path) -> None:
    short, long = examples_of(talker, tmp_path)
    layout = talker.model.layout
    items = [(e, make_grid(talker, e, TASKS[n])) for e, n in [(short, "A1A2"), (long, "T1T2"), (long, "A1T1")]]
    batch = collate(layout, items, [], "cpu")
    for row, (_, grid) in enumerate(items):
        width = grid.tokens.shape[1]
        assert np.array_equal(batch.tokens[row, :, :width].numpy(), grid.tokens)
        assert np.array_equal(batch.loss_mask[row, :, :width].numpy(), grid.loss_mask)
        assert not batch.loss_mask[row, :, width:].any()
        assert (batch.tokens[row, : layout.text_row, width:] == layout.pad_a).all()
        assert (batch.tokens[row, layout.text_row, width:] == layout.pad_t).all()
    assert batch.features is not None
    assert batch.lengths is not None
    assert (batch.features.shape, batch.lengths.tolist()) == ((2, 18, 16), [10, 18])
    speech = grid_batch(talker.model, batch).speech
    spans = [grid.speech_spans for _, grid in items]
    assert [[(start, len(embeds)) for start, embeds in row] for row in speech] == [list(s) for s in spans]
    assert spans[1] == ()


def test_a_voice_is_learnt_on_spoken_answers_only(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", "speakers=[anna, ben]")
    row = replace(training_rows(tmp_path, 1)[0], speaker="ben")
    (example,) = make_examples(talker, [row], TASKS.values())
    items = [(example, make_grid(talker, example, TASKS[name])) for name in ("A1A2", "A1T2")]
    batch = collate(talker.model.layout, items, talker.config.speakers, "cpu")
    spoken = items[0][1]
    expected = torch.arange(batch.tokens.shape[2]) >= spoken.num_prompt
    assert torch.equal(batch.answer_mask[0], expected & (torch.arange(len(expected)) < spoken.tokens.shape[1]))
    assert not batch.answer_mask[1].any()
    assert batch.speaker.tolist() == [1, 1]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: unknown speaker 'bem'; did you mean 'ben'"):
        make_examples(talker, [replace(row, speaker="bem")], [TASKS["T1A2"]])
