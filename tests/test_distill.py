"""Distillation: what the parent says to the typed question is what the talker learns to say to the spoken one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import NEW_PARTS, make_examples, model_folder, moved_parts, snapshot, stage, tiny_talker, train
from training import assert_close, first_step, losses_of, mixed_rows, run_step, steps_of

from anytalk.data.examples import make_grid, text_twin
from anytalk.grid.tasks import A1A2, A1T1, A1T2, T1A2, T1T2, TASKS
from anytalk.model.attach import attach
from anytalk.model.parent import load_parent
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import Backbone, GridBatch, Loss, Message, Row
from anytalk.train import losses as losses_module
from anytalk.train.freeze import apply_freeze


def alone(talker: Talker) -> dict[Loss, float]:
    """The distillation only, taught by the parent."""
    return losses_of(talker, {"distill": 1.0}, load_parent(talker), distill_temperature=3.0)


@pytest.fixture
def talker(tmp_path: Path) -> Talker:
    return tiny_talker(tmp_path / "t")


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return mixed_rows(tmp_path)


def text_log_probs(talker: Talker, ids: list[int], teacher: Backbone, heat: float) -> torch.Tensor:
    """(T,V) of the parent on plain text."""
    with torch.no_grad():
        logits = teacher.text_logits(teacher(teacher.embed_text(torch.tensor([ids]))).normed)[0]
    scaled: torch.Tensor = logits[:, : talker.model.layout.text_vocab_size] / heat
    return scaled - scaled.exp().sum(-1, keepdim=True).log()


def kl_by_hand(talker: Talker, example: Any, task: Any, teacher: Backbone, heat: float) -> tuple[torch.Tensor, int]:
    """Sum over the answer of sum_v p (log p - log q), times the temperature squared, and the number of its tokens."""
    model, layout = talker.model, talker.model.layout
    grid = make_grid(talker, example, task)
    spans = []
    for (start, width), clip in zip(grid.speech_spans, example.clips(task), strict=True):
        embeds, _, _ = model.adapt_speech(clip.features[None], torch.tensor([clip.num_frames]))
        spans.append((start, embeds[0, :width]))
    states = model.backbone(model.embed(GridBatch(torch.from_numpy(grid.tokens)[None], [spans])).backbone)
    logits = model.text_logits(states.normed)[0, :, : layout.text_vocab_size] / heat
    said = logits - logits.exp().sum(-1, keepdim=True).log()
    tokenizer, answer = model.backbone.tokenizer, [*map(int, grid.tokens[layout.text_row][grid.loss_mask[-1]])]
    messages = [{"role": turn.role, "content": turn.text} for turn in example.history]
    typed = tokenizer.render_chat([*messages, {"role": "user", "content": example.question_text}])
    taught = text_log_probs(talker, [*tokenizer.encode_rendered(typed), *answer], teacher, heat)
    taught = taught[-len(answer) - 1 : -1]
    first = grid.num_prompt - 1
    found = said[first : first + len(answer)]
    return (taught.exp() * (taught - found)).sum() * heat**2, len(answer)


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("max_positions", [1, 10_000])
def test_the_kl_by_hand(max_positions: int, uniform: bool, talker: Talker, rows: list[Row]) -> None:
    apply_freeze(talker.model, ["input_adapter"])
    tasks = {"A1A2": 1.0, "A1T2": 1.0, "A1T1": 1.0, "T1T2": 1.0}
    step = first_step(talker, rows, tasks, losses=alone(talker), batch_size=8, max_positions=max_positions)
    examples = {e.id: e for e in make_examples(talker, rows, list(TASKS.values()))}
    teacher = load_parent(talker)
    total, count = torch.zeros(()), 0
    for row, number in zip(step.rows, step.tasks, strict=True):
        task = TASKS[list(tasks)[number]]
        if task in (A1A2, A1T2):  # neither a transcript nor a typed question has a twin
            value, tokens = kl_by_hand(talker, examples[row], task, teacher, 3.0)
            total, count = total + value, count + tokens
    assert step.counts["distill"] == count > 0
    expected = total / count
    expected.backward()
    grads = {n: p.grad.clone() for n, p in talker.model.named_parameters() if p.grad is not None}
    loss, means, found = run_step(talker, step, alone(talker), uniform=uniform)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    assert means["distill"] == pytest.approx(loss, rel=1e-6)
    assert all(name.startswith("input_adapter.") for name in found)
    assert_close(found, grads, 1e-4)


def test_a_talker_that_hears_what_it_would_have_read_has_nothing_to_learn(
    talker: Talker, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student is asked the twin itself: then both sides are one model on one prompt."""
    step = first_step(talker, rows, {"A1T2": 1.0}, losses=alone(talker), max_positions=10_000)
    (batch,) = step.passes
    assert run_step(talker, step, alone(talker))[0] > 1e-3
    ids, answers, _ = batch.prepared["distill"]
    layout = talker.model.layout
    tokens = torch.full((len(ids), layout.num_streams, ids.shape[1]), layout.pad_a)
    tokens[:, -1] = ids
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, -1] = answers
    same = replace(batch, tokens=tokens, loss_mask=mask, speech=[[] for _ in batch.speech], lengths=None)
    loss, _, _ = run_step(talker, replace(step, passes=[same]), alone(talker))
    assert abs(loss) < 1e-6


def test_typed_questions_and_transcripts_have_no_twin(talker: Talker, rows: list[Row]) -> None:
    examples = make_examples(talker, rows, list(TASKS.values()))
    for task, has in [(A1A2, True), (A1T2, True), (A1T1, False), (T1A2, False), (T1T2, False)]:
        step = steps_of(talker, examples, {task.name: 1.0}, losses=alone(talker))[0]
        assert [bool(batch.prepared["distill"]) for batch in step.passes] == [has] * len(step.passes)
        assert (step.counts["distill"] > 0) is has
    nameless = [replace(examples[0], question_text=None), examples[1]]
    (batch,) = steps_of(talker, nameless, {"A1T2": 1.0}, losses=alone(talker), batch_size=4)[0].passes
    twins = batch.prepared["distill"][2].tolist()
    assert len(twins) == 2
    answers = [batch.tokens[i, -1][batch.loss_mask[i, -1]].tolist() for i in twins]
    assert answers == [[*talker.model.backbone.tokenizer.encode("longer"), talker.model.layout.end_of_text_id]] * 2
    (plain,) = steps_of(talker, examples, {"A1T2": 1.0}, batch_size=2)[0].passes
    assert "distill" not in plain.prepared


def test_the_twin_of_a_conversation_is_the_whole_conversation_typed(talker: Talker, rows: list[Row]) -> None:
    past = (
        Message(role="system", text="Be brief."),
        Message(role="user", text="Hello?", audio=rows[1].question_audio),
        Message(role="assistant", text="Hi."),
    )
    row = replace(rows[0], history=past)
    (example,) = make_examples(talker, [row], [A1T2])
    grid = text_twin(talker, example)
    assert grid.speech_spans == ()
    tokenizer = talker.model.backbone.tokenizer
    said = [("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hi."), ("user", "question 0?")]
    prompt = tokenizer.encode_rendered(tokenizer.render_chat([{"role": r, "content": c} for r, c in said]))
    text = grid.tokens[talker.model.layout.text_row].tolist()
    assert text == [*prompt, *tokenizer.encode("ab"), tokenizer.eos_id]
    apply_freeze(talker.model, ["input_adapter"])
    step = first_step(talker, [row], {"A1T2": 1.0}, losses=alone(talker), batch_size=1)
    expected, count = kl_by_hand(talker, example, A1T2, load_parent(talker), 3.0)
    found, _, _ = run_step(talker, step, alone(talker))
    # A small gap between two nearly equal distributions: float32 leaves three digits of it.
    assert found == pytest.approx(float(expected.detach()) / count, rel=3e-3)


def test_what_was_only_said_cannot_be_typed(talker: Talker, rows: list[Row]) -> None:
    past = (Message(role="user", audio=rows[1].question_audio), Message(role="assistant", text="Hi."))
    row = replace(rows[0], history=past)
    for task in ("A1T2", "T1A2"):
        step = first_step(talker, [row], {task: 1.0}, losses=alone(talker), batch_size=1)
        assert step.passes[0].lengths is not None
        assert step.counts["distill"] == 0
        assert not step.passes[0].prepared["distill"]


# In a stage


def test_only_what_trains_moves_and_the_gap_closes(talker: Talker, rows: list[Row]) -> None:
    before = snapshot(talker.model)
    short = stage(train=["input_adapter"], tasks={"A1T2": 1}, losses={"distill": 1}, steps=30, batch_size=4)
    record = train(talker, short.model_copy(update={"learning_rate": 3e-3}), rows)
    assert moved_parts(before, talker.model) == {"input_adapter"}
    assert record.loss_last < 0.8 * record.loss_first


def test_a_backbone_that_trains_is_taught_by_its_unchanged_parent(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(model_folder(tmp_path / "model", "llama"))
    parts = ["encoder={name: tiny}", "codec={name: tiny}", "output_adapter.options.num_blocks=1"]
    talker, teachers = attach(base, tmp_path / "t", assignments=parts), []

    def recorded(of: Talker) -> Backbone:
        teachers.append(load_parent(of))
        return teachers[-1]

    monkeypatch.setattr(losses_module, "load_parent", recorded)
    original = {name: tensor.clone() for name, tensor in talker.model.backbone.state_dict().items()}
    both = {"train": [*NEW_PARTS, "backbone"], "tasks": {"A1A2": 1, "T1T2": 1}, "losses": {"distill": 1, "text": 1}}
    for name in ("one", "two"):  # in the second stage the talker's own backbone isn't its parent any more
        train(load_talker(tmp_path / "t"), stage(name=name, **both), rows)
    moved = load_talker(tmp_path / "t").model.backbone.state_dict()
    assert any(not torch.equal(moved[name], tensor) for name, tensor in original.items())
    assert len(teachers) == 2
    for teacher in teachers:
        assert not teacher.training
        held = teacher.state_dict()
        assert all(torch.equal(held[name], tensor) for name, tensor in original.items())
        assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
