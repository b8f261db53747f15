"""Examples to batches: padding, voices, and conversations of several turns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_examples, tiny_talker, training_rows
from training import by_hand, first_step, mixed_rows, run_step, steps_of

from anytalk.data.batches import Batch, collate
from anytalk.data.examples import Example, make_grid
from anytalk.errors import DataError
from anytalk.grid.prompts import TrainingGrid
from anytalk.grid.tasks import A1T1, A1T2, T1T2, TASKS
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Message, Row
from anytalk.train.freeze import apply_freeze


@pytest.fixture
def talker(tmp_path: Path) -> Talker:
    return tiny_talker(tmp_path / "t")


def collated(talker: Talker, items: list[tuple[Example, str]]) -> tuple[Batch, list[TrainingGrid]]:
    grids = [make_grid(talker, example, TASKS[name]) for example, name in items]
    rows = [(example, TASKS[name], grid) for (example, name), grid in zip(items, grids, strict=True)]
    return collate(talker.model.layout, rows, talker.config.speakers), grids


def test_a_batch_holds_what_its_rows_hold(talker: Talker, tmp_path: Path) -> None:
    short, long, *_ = make_examples(talker, mixed_rows(tmp_path), TASKS.values())
    layout = talker.model.layout
    batch, grids = collated(talker, [(short, "A1A2"), (long, "T1T2"), (long, "A1T1")])
    for row, grid in enumerate(grids):
        width = grid.tokens.shape[1]
        assert np.array_equal(batch.tokens[row, :, :width].numpy(), grid.tokens)
        assert np.array_equal(batch.loss_mask[row, :, :width].numpy(), grid.loss_mask)
        assert not batch.loss_mask[row, :, width:].any()
        assert (batch.tokens[row, : layout.text_row, width:] == layout.pad_a).all()
        assert (batch.tokens[row, layout.text_row, width:] == layout.pad_t).all()
    assert batch.features is not None
    assert batch.lengths is not None
    assert (batch.features.shape, batch.lengths.tolist()) == ((2, 18, 16), [10, 18])  # 0.2 s and 0.35 s of 50 frames
    assert batch.speech == [[(grids[0].speech_spans[0][0], 0)], [], [(grids[2].speech_spans[0][0], 1)]]
    assert batch.waves is None
    moved = batch.to("cpu")
    assert moved.speech == batch.speech
    assert torch.equal(moved.tokens, batch.tokens)


def test_a_voice_is_learnt_on_spoken_answers_only(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", "speakers=[anna, ben]")
    row = replace(training_rows(tmp_path, 1)[0], speaker="ben")
    (example,) = make_examples(talker, [row], TASKS.values())
    batch, (spoken, _) = collated(talker, [(example, "A1A2"), (example, "A1T2")])
    expected = torch.arange(batch.tokens.shape[2]) >= spoken.num_prompt
    assert torch.equal(batch.answer_mask[0], expected & (torch.arange(len(expected)) < spoken.tokens.shape[1]))
    assert not batch.answer_mask[1].any()
    assert batch.speaker.tolist() == [1, 1]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: unknown speaker 'bem'; did you mean 'ben'"):
        make_examples(talker, [replace(row, speaker="bem")], [TASKS["T1A2"]])


def test_a_step_counts_all_devices_and_hands_out_its_own_passes(talker: Talker, tmp_path: Path) -> None:
    examples = make_examples(talker, mixed_rows(tmp_path), TASKS.values())
    tasks = {"A1A2": 1.0, "T1T2": 2.0}
    alone = steps_of(talker, examples, tasks, batch_size=12, max_positions=300)[3]
    shared = [steps_of(talker, examples, tasks, batch_size=12, max_positions=300, rank=r, world=3)[3] for r in range(3)]
    assert len({len(step.passes) for step in shared}) == 1
    assert [(s.counts, s.rows, s.tasks) for s in shared] == [(alone.counts, alone.rows, alone.tasks)] * 3
    held = sorted(
        tuple(b.tokens[i][b.loss_mask[i]].tolist()) for s in shared for b in s.passes for i in range(len(b.speech))
    )
    assert held == sorted(
        tuple(b.tokens[i][b.loss_mask[i]].tolist()) for b in alone.passes for i in range(len(b.speech))
    )
    assert alone.positions == sum(b.tokens.shape[0] * b.tokens.shape[2] for b in alone.passes)
    assert shared[0].positions == sum(b.tokens.shape[0] * b.tokens.shape[2] for s in shared for b in s.passes)
    named = {example.id: example for example in examples}
    drawn = [(named[row], TASKS[list(tasks)[task]]) for row, task in zip(alone.rows, alone.tasks, strict=True)]
    real = sum(make_grid(talker, example, task).tokens.shape[1] for example, task in drawn)
    assert alone.padding == pytest.approx(1 - real / alone.positions)


def test_sound_that_was_not_kept_is_asked_for(talker: Talker, tmp_path: Path) -> None:
    examples = make_examples(talker, training_rows(tmp_path, 2), [A1T1])
    with pytest.raises(DataError, match=r"rows\.jsonl:\d: its sound is needed") as caught:
        steps_of(talker, examples, {"A1T1": 1.0}, waves=True)[0]
    assert "--keep-sound" in caught.value.hint


# Conversations


def conversation(folder: Path) -> Row:
    """A system message, a question that is only there as sound, one as both, and one more as both."""
    rows = mixed_rows(folder)
    past = (
        Message(role="system", text="S"),
        Message(role="user", audio=rows[1].question_audio),
        Message(role="assistant", text="aha"),
        Message(role="user", text="so?", audio=rows[2].question_audio),
        Message(role="assistant", text="yes"),
    )
    return replace(rows[0], id="talk", question_text="why?", history=past)


COLUMNS = {"heard": 18, "both": 13, "question": 10}
"""Frames of 0.35 s, 0.25 s and 0.2 s at 50 per second; the adapter keeps their number."""

OPEN, CLOSE = "<|im_start|>", "<|im_end|>"
BEFORE = f"{OPEN}system\nS{CLOSE}\n{OPEN}user\n"
# What stands in the text row, speech as its number of columns in braces.
EXPECTED: dict[str, str] = {
    "A1T2": BEFORE + "{18}" + f"{CLOSE}\n{OPEN}assistant\naha{CLOSE}\n{OPEN}user\n" + "{13}"
    + f"{CLOSE}\n{OPEN}assistant\nyes{CLOSE}\n{OPEN}user\n" + "{10}" + f"{CLOSE}\n{OPEN}assistant\n",
    # A typed question: what was only said is still heard, what is there as text is read.
    "T1T2": BEFORE + "{18}" + f"{CLOSE}\n{OPEN}assistant\naha{CLOSE}\n{OPEN}user\nso?"
    + f"{CLOSE}\n{OPEN}assistant\nyes{CLOSE}\n{OPEN}user\nwhy?" + f"{CLOSE}\n{OPEN}assistant\n",
    # A transcript has no past.
    "A1T1": f"{OPEN}user\n" + "{10}" + f"\nWrite down exactly what I said.{CLOSE}\n{OPEN}assistant\n",
}  # fmt: skip


def spelt(talker: Talker, row: np.ndarray) -> str:
    """A text row as in EXPECTED."""
    text, speech = "", 0
    for token in row.tolist():
        if token == talker.model.layout.pad_t:
            speech += 1
            continue
        text, speech = text + (f"{{{speech}}}" if speech else ""), 0
        text += chr(token) if token < 256 else ["<|endoftext|>", OPEN, CLOSE][token - 256]
    return text


@pytest.mark.parametrize("task", EXPECTED)
def test_a_conversation_column_by_column(task: str, talker: Talker, tmp_path: Path) -> None:
    (example,) = make_examples(talker, [conversation(tmp_path)], TASKS.values())
    layout, grid = talker.model.layout, make_grid(talker, example, TASKS[task])
    prompt = grid.tokens[:, : grid.num_prompt]
    assert spelt(talker, prompt[layout.text_row]) == EXPECTED[task]
    answer = "why?" if task == "A1T1" else "ab"
    assert spelt(talker, grid.tokens[layout.text_row, grid.num_prompt :]) == answer + CLOSE
    columns = [width for _, width in grid.speech_spans]
    clips = example.clips(TASKS[task])
    assert columns == {"A1T2": [18, 13, 10], "T1T2": [18], "A1T1": [10]}[task]
    assert [clip.num_frames for clip in clips] == columns
    assert [round(clip.duration_s, 2) for clip in clips] == {"A1T2": [0.35, 0.25, 0.2], "T1T2": [0.35], "A1T1": [0.2]}[
        task
    ]
    for start, width in grid.speech_spans:
        assert (prompt[layout.text_row, start : start + width] == layout.pad_t).all()
        assert (prompt[: layout.text_row, start - 1] == layout.input_a).all()
        assert (prompt[: layout.text_row, start + width] == layout.eoa).all()
    pads = (prompt[: layout.text_row] == layout.pad_a).all(axis=0).sum()
    assert pads == grid.num_prompt - 2 * len(columns)
    assert grid.loss_mask[layout.text_row].nonzero()[0].tolist() == list(range(grid.num_prompt, grid.tokens.shape[1]))


def test_each_span_gets_its_own_clip(talker: Talker, tmp_path: Path) -> None:
    row = conversation(tmp_path)
    plain = replace(row, id="plain", history=())
    examples = make_examples(talker, [plain, row], TASKS.values())
    batch, (_, talk, _) = collated(talker, [(examples[0], "A1T2"), (examples[1], "A1T2"), (examples[1], "T1T2")])
    assert batch.lengths is not None
    assert batch.features is not None
    assert batch.lengths.tolist() == [10, 18, 13, 10, 18]
    assert [[clip for _, clip in spans] for spans in batch.speech] == [[0], [1, 2, 3], [4]]
    assert [start for start, _ in batch.speech[1]] == [start for start, _ in talk.speech_spans]
    assert torch.equal(batch.features[0, :10], batch.features[3, :10])
    assert torch.equal(batch.features[1], batch.features[4])
    heard = examples[1].history[1].clip
    assert heard is not None
    assert heard.features is not None
    assert torch.equal(batch.features[1, :18], heard.features)


def test_the_loss_of_conversations_by_hand(talker: Talker, tmp_path: Path) -> None:
    row = conversation(tmp_path)
    apply_freeze(talker.model, ["input_adapter"])
    (example,) = make_examples(talker, [row], [A1T2, T1T2])
    step = first_step(talker, [row], {"A1T2": 1.0, "T1T2": 1.0}, batch_size=2)
    weights: dict[str, Any] = {"text": 1.0}
    loss, _, gradients = by_hand(talker, [(example, A1T2), (example, T1T2)], weights)
    found, _, moved = run_step(talker, step)
    assert found == pytest.approx(loss, rel=1e-5)
    assert moved.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(moved[name], gradient, atol=1e-5 * float(gradient.abs().max())), name
