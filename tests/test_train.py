"""Freezing, the schedule, the optimizer, and a talker that learns its lines by heart."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    NEW_PARTS,
    make_examples,
    moved_parts,
    probe,
    same,
    snapshot,
    stage,
    tiny_talker,
    train,
    training_rows,
)

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta
from anytalk.errors import ConfigError, DataError, TalkerError, UnknownNameError
from anytalk.grid.audio import read_wave
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker, load_talker
from anytalk.train.freeze import apply_freeze
from anytalk.train.loop import TrainingWatcher
from anytalk.train.optimizer import make_optimizer
from anytalk.train.schedule import learning_rate

EVERY_PART = ["encoder", *NEW_PARTS, "backbone", "speaker"]


@pytest.fixture
def talker(tmp_path: Path) -> Talker:
    return tiny_talker(tmp_path / "t", "speakers=[anna, ben]")


# Freezing


@pytest.mark.parametrize("part", EVERY_PART)
def test_exactly_the_named_part_moves(part: str, talker: Talker, tmp_path: Path) -> None:
    before, plans = snapshot(talker.model), []
    watcher = TrainingWatcher(plan=lambda _, report: plans.append(report))
    train(talker, stage(train=[part], steps=1), training_rows(tmp_path, 2), watcher=watcher)
    assert moved_parts(before, talker.model) == {part}
    assert moved_parts(before, load_talker(tmp_path / "t").model) == {part}
    assert {r.name for r in plans[0] if r.trainable} == {part}
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in talker.model.parts().items()}
    assert {r.name: r.total for r in plans[0]} == sizes
    assert talker.config.history[0].trained == [part]


def test_freezing_is_complete_in_both_directions(talker: Talker) -> None:
    model = talker.model
    logits = model.backbone.text_logits(model.backbone(model.backbone.embed_text(torch.tensor([[1]]))).normed)
    torch.autograd.backward(logits.sum())
    apply_freeze(model, ["heads", "speaker"])
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"heads", "speaker"}
    assert {name for name, part in model.parts().items() if part.training} == {"heads", "speaker"}
    assert all(p.grad is None for p in model.backbone.parameters())
    apply_freeze(model, ["backbone"])
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"backbone"}
    assert not model.heads.training


@pytest.mark.parametrize(
    ("train", "assignments", "words"),
    [
        (["head"], [], "unknown part 'head'; did you mean 'heads'?"),
        (["backbones", "heads"], [], "did you mean 'backbone'?"),
        (["speaker"], [], "'speaker' has nothing to train"),
        (["heads"], ["heads={name: shared}"], "'heads' has nothing to train"),
        (["encoder"], ["encoder=null"], "'encoder' has nothing to train"),
        ([], [], "trains no part"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(
    train: list[str], assignments: list[str], words: str, tmp_path: Path
) -> None:
    model = tiny_talker(tmp_path / "t", *assignments).model
    with pytest.raises(ConfigError) as caught:
        apply_freeze(model, train)
    assert words in caught.value.message
    assert all(p.requires_grad for p in model.parameters()), "nothing is frozen when a name is wrong"


@pytest.mark.parametrize(
    ("train_what", "moves"),
    [
        (["backbone:*blocks.1.*"], lambda name: name.startswith("stack.blocks.1.")),
        (["backbone:head.*", "backbone:*.0.mlp.?.bias"], lambda name: name == "head.weight" or _is_mlp_bias(name)),
        (["backbone", "backbone:head.*"], lambda name: True),
    ],
    ids=["a block", "two patterns", "whole after all"],
)
def test_a_pattern_moves_exactly_what_it_matches(
    train_what: list[str], moves: Any, talker: Talker, tmp_path: Path
) -> None:
    before, plans = snapshot(talker.model), []
    watcher = TrainingWatcher(plan=lambda _, report: plans.append(report))
    record = train(talker, stage(train=train_what, tasks={"T1T2": 1}, steps=1), training_rows(tmp_path, 2), watcher)
    loaded = snapshot(load_talker(tmp_path / "t").model)
    changed = {key for key, tensor in before["backbone"].items() if not torch.equal(tensor, loaded["backbone"][key])}
    assert changed == {key for key in before["backbone"] if moves(key)}
    assert changed
    assert moved_parts(before, talker.model) == {"backbone"}
    assert record.trained == ["backbone"]
    trained = sum(before["backbone"][key].numel() for key in changed)
    assert {r.name: r.trainable for r in plans[0]}["backbone"] == trained


def _is_mlp_bias(name: str) -> bool:
    return name in ("stack.blocks.0.mlp.0.bias", "stack.blocks.0.mlp.2.bias")


def test_a_pattern_without_a_match_is_a_sentence(talker: Talker) -> None:
    for pattern in ("backbone:*layers.1.*", "backbone:"):
        with pytest.raises(ConfigError) as caught:
            apply_freeze(talker.model, [pattern])
        assert f"'{pattern}' matches no parameter of the part 'backbone'" in caught.value.message
        assert "embedding.weight" in caught.value.hint
    assert all(p.requires_grad for p in talker.model.parameters())


def test_a_trained_encoder_hears_gradients_through_waves(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    before, rows = snapshot(talker.model), training_rows(tmp_path, 2)
    record = train(talker, stage(train=["encoder"], tasks={"A1T1": 1, "A1A2": 1}, steps=2), rows)
    assert record.trained == ["encoder"]
    loaded = load_talker(tmp_path / "t")
    assert moved_parts(before, loaded.model) == {"encoder"}
    wave = torch.randn(1, 1600)
    heard = [t.model.encode_speech(wave, torch.tensor([1600]))[0] for t in (talker, loaded)]
    assert torch.equal(*heard)


def test_how_a_step_is_cut_changes_nothing(tmp_path: Path) -> None:
    rows, losses = training_rows(tmp_path, 6), []
    for name, max_positions in [("one", 100_000), ("few", 150), ("each", 1)]:
        seen: list[dict[str, float]] = []
        watcher = TrainingWatcher(step=lambda _, step, metrics, seen=seen: seen.append(metrics))
        cut = stage(tasks={"A1A2": 1, "A1T1": 1, "T1T2": 1}, batch_size=6, steps=4, max_positions=max_positions)
        train(tiny_talker(tmp_path / name), cut, rows, watcher)
        losses.append([[metrics[key] for key in ("loss", "text", "audio", "grad_norm")] for metrics in seen])
    assert np.allclose(losses[1], losses[0], rtol=1e-3)
    assert np.allclose(losses[2], losses[0], rtol=1e-3)


# Schedule and optimizer


def test_the_schedule_by_hand() -> None:
    rates = [learning_rate(s, steps=7, peak=1.0, floor=0.2, warmup=2) for s in range(7)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.2 + 0.8 * (0.5 + 0.25 * math.sqrt(2)), 0.6,
                                   0.2 + 0.8 * (0.5 - 0.25 * math.sqrt(2)), 0.2])  # fmt: skip
    assert learning_rate(0, steps=1, peak=1.0, floor=0.1, warmup=0) == 1.0
    assert [learning_rate(s, steps=3, peak=1.0, floor=0.0, warmup=4) for s in range(3)] == [0.25, 0.5, 0.75]


def test_the_learning_rate_is_the_schedules(talker: Talker, tmp_path: Path) -> None:
    seen: list[float] = []
    watcher = TrainingWatcher(step=lambda stage, step, metrics: seen.append(metrics["learning_rate"]))
    short = stage(steps=4, warmup_steps=1, learning_rate=1e-2, learning_rate_floor=1e-3)
    train(talker, short, training_rows(tmp_path, 2), watcher=watcher)
    expected = [learning_rate(s, steps=4, peak=1e-2, floor=1e-3, warmup=1) for s in range(4)]
    assert seen == expected


def test_only_matrices_decay(talker: Talker) -> None:
    apply_freeze(talker.model, EVERY_PART)
    names = {id(p): n for n, p in talker.model.named_parameters()}
    groups = make_optimizer(talker.model, stage(train=EVERY_PART, weight_decay=0.3)).param_groups
    decayed = {names[id(p)] for p in groups[0]["params"]}
    plain = {names[id(p)] for p in groups[1]["params"]}
    assert [g["weight_decay"] for g in groups] == [0.3, 0.0]
    assert decayed | plain == set(names.values())
    assert decayed & plain == set()
    assert {"heads.linear.weight", "backbone.head.weight", "backbone.stack.blocks.0.qkv.weight"} <= decayed
    tables = {"backbone.embedding.weight", "audio_embeddings.weight", "speaker.weight", "special_tokens.text"}
    assert tables <= plain
    assert all(n.endswith("weight") and talker.model.get_parameter(n).ndim == 2 for n in decayed)
    assert {n for n in names.values() if n.endswith("bias") or "norm" in n} <= plain


# A stage


def learns_by_heart(talker: Talker, folder: Path, **changes: Any) -> list[Any]:
    rows = training_rows(folder, 2)
    settings = {"train": [*NEW_PARTS, "backbone"], "steps": 110, "learning_rate": 6e-3, "learning_rate_floor": 1e-4}
    record = train(talker, stage(**{**settings, "batch_size": 4, **changes}), rows)
    assert record.loss_first > 5
    assert record.loss_last < 0.1
    return rows


def answers(talker: Talker, rows: list[Any], options: DecodeOptions, **how: Any) -> list[tuple[Any, ...]]:
    said = []
    for row in rows:
        events = list(Session(talker).ask(wave=read_wave(row.question_audio, 16_000), options=options, **how))
        sound = [event.wave for event in events if isinstance(event, AudioDelta)]
        done = events[-1]
        assert isinstance(done, AnswerDone)
        codes = talker.codec.encode(torch.from_numpy(np.concatenate(sound))[None])[0] if sound else None
        said.append((done.text, done.finish_reason, done.num_frames, codes))
    return said


@pytest.mark.parametrize(
    "grid",
    [
        [],
        ["grid.merge=mean", "grid.prompt=raw", "grid.end_of_text=eot"],
        ["grid.pattern=parallel", "heads={name: shared}"],
        ["grid.pattern=flatten"],
    ],
    ids=["paper", "original", "parallel", "flatten"],
)
def test_a_talker_learns_its_lines_and_speaks_them(grid: list[str], tmp_path: Path) -> None:
    # Tied heads have nothing of their own to train.
    train = [p for p in [*NEW_PARTS, "backbone"] if p != "heads" or "heads={name: shared}" not in grid]
    rows = learns_by_heart(tiny_talker(tmp_path / "t", *grid), tmp_path, train=train, tasks={"A1A2": 1.0, "A1T2": 1.0})
    talker = load_talker(tmp_path / "t")
    examples = make_examples(talker, rows, [TASKS["A1A2"]])
    for options in (DecodeOptions(max_columns=40), DecodeOptions(max_columns=40, batch_parallel=False)):
        for example, said in zip(examples, answers(talker, rows, options), strict=True):
            text, reason, frames, codes = said
            assert (text, reason, frames) == (example.answer_text, "stop", 4)
            assert example.codes is not None
            assert np.array_equal(codes.numpy(), example.codes)
    written = answers(talker, rows, DecodeOptions(max_columns=40), task="A1T2")
    assert [w[:2] for w in written] == [(row.answer_text, "stop") for row in rows]


def test_the_history_of_a_stage_is_kept(talker: Talker, tmp_path: Path) -> None:
    before = probe(talker)
    record = train(talker, stage(steps=5, log_every=2), training_rows(tmp_path, 2))
    history = tmp_path / "t" / "history"
    log = [json.loads(line) for line in (history / "short.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [2, 4, 5]
    assert set(log[0]) == {
        "step", "text", "audio0", "audio1", "audio2", "audio", "loss", "learning_rate", "grad_norm", "skipped",
        "padding", "positions_per_s", "data_share",
    }  # fmt: skip
    assert (history / "short.png").read_bytes().startswith(b"\x89PNG")
    assert list((history / "tensorboard" / "short").glob("events.*"))
    assert not (history / "short.checkpoint").exists()
    assert record == talker.config.history[-1] == load_talker(tmp_path / "t").config.history[-1]
    assert record.loss_first == pytest.approx(np.mean([entry["loss"] for entry in log]))
    card = (tmp_path / "t" / "README.md").read_text()
    assert "history/short.png" in card
    assert "| short |" in card
    assert not same(before, probe(talker))
    assert same(probe(talker), probe(load_talker(tmp_path / "t")))


def test_bf16_trains_in_the_same_process(talker: Talker, tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 2)
    train(talker, stage(name="one"), rows)
    record = train(talker, stage(name="two"), rows, precision="bf16")
    assert math.isfinite(record.loss_last)
    assert talker.model.get_parameter("heads.linear.weight").dtype is torch.float32
    assert same(probe(talker), probe(load_talker(tmp_path / "t")))
    train(talker, stage(name="three"), rows)


# What users get wrong


def test_a_stage_whose_tasks_do_not_use_what_it_trains_is_refused(tmp_path: Path) -> None:
    talker, rows = tiny_talker(tmp_path / "t"), training_rows(tmp_path, 2)
    with pytest.raises(ConfigError, match="trains heads, but none of its tasks uses them"):
        train(talker, stage(train=["heads"], tasks={"A1T1": 1, "T1T2": 1}), rows)
    before = snapshot(talker.model)
    # With one task that does, batches without it are passed over.
    record = train(talker, stage(train=["heads"], tasks={"T1T2": 1, "T1A2": 1}, steps=6, batch_size=1), rows)
    assert moved_parts(before, talker.model) == {"heads"}
    assert record.steps == 6


def test_wrong_stages_are_sentences(talker: Talker, tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 2)
    with pytest.raises(UnknownNameError, match="unknown task 'A1A3'; did you mean"):
        train(talker, stage(tasks={"A1A3": 1}), rows)
    with pytest.raises(ConfigError, match="2 stream_weights, the talker 3 streams"):
        train(talker, stage(stream_weights=[1.0, 1.0]), rows)
    with pytest.raises(DataError, match="no rows"):
        train(talker, stage(), [])
    with torch.no_grad():
        talker.model.get_parameter("heads.linear.weight").fill_(torch.nan)
    with pytest.raises(
        ConfigError,
        match=r"stopped at step 4: the loss is nan, and 4 steps in a row had to be skipped; rows of .* rows\.jsonl:",
    ):
        train(talker, stage(steps=5), rows)
    talker.folder = None
    with pytest.raises(TalkerError, match="must be saved before"):
        train(talker, stage(), rows)
    assert load_talker(tmp_path / "t").config.history == []
