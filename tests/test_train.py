"""Freezing, losses, the schedule, the optimizer, and a talker that learns its lines by heart."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NEW_PARTS, moved_parts, probe, same, snapshot, stage, tiny_talker, training_rows
from torch.nn import functional as F

from anytalk.data.batches import collate
from anytalk.data.examples import make_examples, make_grid
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import AnswerDone, AudioDelta, Session
from anytalk.errors import ConfigError, DataError, TalkerError, UnknownNameError
from anytalk.grid.audio import read_wave
from anytalk.grid.tasks import TASKS
from anytalk.model.talk_model import GridBatch
from anytalk.model.talker import Talker, load_talker
from anytalk.train.freeze import apply_freeze
from anytalk.train.loop import Watcher, _optimizer, train_stage
from anytalk.train.losses import LossWeights, batch_loss
from anytalk.train.schedule import learning_rate

EVERY_PART = ["encoder", *NEW_PARTS, "backbone", "speaker"]


@pytest.fixture
def talker(tmp_path: Path) -> Talker:
    return tiny_talker(tmp_path / "t", "speakers=[anna, ben]")


# Freezing


@pytest.mark.parametrize("part", EVERY_PART)
def test_exactly_the_named_part_moves(part: str, talker: Talker, tmp_path: Path) -> None:
    before, plans = snapshot(talker.model), []
    watcher = Watcher(plan=lambda _, report: plans.append(report))
    train_stage(talker, stage(train=[part], steps=1), training_rows(tmp_path, 2), watcher=watcher)
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


def test_a_trained_encoder_hears_gradients_through_waves(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    before, rows = snapshot(talker.model), training_rows(tmp_path, 2)
    record = train_stage(talker, stage(train=["encoder"], tasks={"A1T1": 1, "A1A2": 1}, steps=2), rows)
    assert record.trained == ["encoder"]
    loaded = load_talker(tmp_path / "t")
    assert moved_parts(before, loaded.model) == {"encoder"}
    wave = torch.randn(1, 1600)
    heard = [t.model.encode_speech(wave, torch.tensor([1600]))[0] for t in (talker, loaded)]
    assert torch.equal(*heard)


# Losses


def random_batch(talker: Talker, folder: Path, task: str, num_rows: int = 2) -> Any:
    examples = make_examples(talker, training_rows(folder, num_rows), [TASKS[task]])
    items = [(example, make_grid(talker, example, TASKS[task])) for example in examples]
    return collate(talker.model.layout, items, talker.config.speakers, "cpu")


def test_cross_entropy_by_hand() -> None:
    # One row of text and one audio stream: V 2, C 1 and four specials. Hidden states are one-hot, logits are tables.
    text_table = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    audio_table = torch.tensor([[0.0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0], [1.0, 3, 0, 0, 0]])
    states = torch.eye(3)[None]  # column t -> row t
    model = SimpleNamespace(
        layout=SimpleNamespace(text_row=1),
        merge="mean",
        embed=lambda batch: (states, None),
        backbone=lambda embeds: SimpleNamespace(normed=embeds),
        speak=lambda seen, audio, cache, audio_rows: SimpleNamespace(states=seen, audio=states if audio_rows else None),
        text_logits=lambda hidden: hidden @ text_table,
        audio_logits=lambda hidden: (hidden @ audio_table)[:, None],
    )
    batch = SimpleNamespace(
        tokens=torch.tensor([[[4, 1, 0], [1, 0, 1]]]),
        loss_mask=torch.tensor([[[False, True, False], [False, True, True]]]),
        speech_starts=[-1],
        lengths=None,
        speaker=None,
        answer_mask=None,
    )
    # Token t is predicted from column t-1: text 0 from (0,1), text 1 from (2,0); audio 1 from (0,0,0,0,0).
    text = (math.log(1 + math.e) + math.log(math.e**2 + 1)) / 2
    audio = math.log(5)
    loss, metrics = batch_loss(model, batch, LossWeights(text=0.5, audio=2.0))  # type: ignore[arg-type]
    assert metrics == {
        "text": pytest.approx(text),
        "audio0": pytest.approx(audio),
        "audio": pytest.approx(audio),
        "loss": pytest.approx(0.5 * text + 2 * audio),
    }
    assert float(loss) == pytest.approx(0.5 * text + 2 * audio)


def test_losses_are_means_over_each_streams_own_tokens(talker: Talker, tmp_path: Path) -> None:
    batch, model = random_batch(talker, tmp_path, "T1A2"), talker.model
    _, metrics = batch_loss(model, batch, LossWeights(streams=[1.0, 2.0, 5.0]))
    with torch.no_grad():
        embeds, audio = model.embed(GridBatch(batch.tokens, (), batch.speaker, batch.answer_mask))
        hidden = model.run(embeds, audio, None, audio_rows=2)
        assert hidden.audio is not None
        logits = [*model.audio_logits(hidden.audio).unbind(1), model.text_logits(hidden.states.normed)]
    for row, name in enumerate(["audio0", "audio1", "audio2", "text"]):
        wanted = [
            F.cross_entropy(logits[row][b, t - 1], batch.tokens[b, row, t])
            for b in range(2)
            for t in range(1, batch.tokens.shape[2])
            if batch.loss_mask[b, row, t]
        ]
        assert metrics[name] == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-5)
    weighted = (metrics["audio0"] + 2 * metrics["audio1"] + 5 * metrics["audio2"]) / 8
    assert metrics["loss"] == pytest.approx(metrics["text"] + weighted, rel=1e-5)


@pytest.mark.parametrize(
    ("task", "learns_text", "learns_audio"),
    [
        ("A1A2", True, True),
        ("A1T2", True, False),
        ("A1T1", True, False),
        ("T1A2", True, True),
        ("T1T2", True, False),
        ("T1A1", False, True),
    ],
)
def test_each_task_learns_its_own_streams(
    task: str, learns_text: bool, learns_audio: bool, talker: Talker, tmp_path: Path
) -> None:
    batch, layout = random_batch(talker, tmp_path, task), talker.model.layout
    loss, metrics = batch_loss(talker.model, batch, LossWeights())
    assert ("text" in metrics, "audio" in metrics) == (learns_text, learns_audio)
    torch.autograd.backward(loss)
    heads = [p.grad is not None for p in talker.model.heads.parameters()]
    assert heads == [learns_audio]
    answers = batch.tokens[batch.loss_mask]
    num_text = 4 if task == "A1T1" else 3  # "q0?" or "ab", and its end
    assert len(answers) == 2 * (num_text * learns_text + 3 * 5 * learns_audio)  # 4 frames and eoa
    prompt = [int(mask.any(0).nonzero()[0]) for mask in batch.loss_mask]
    assert not any(batch.loss_mask[i, :, : prompt[i]].any() for i in range(2))
    assert not (batch.tokens[:, : layout.text_row][batch.loss_mask[:, : layout.text_row]] == layout.pad_a).any()


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    # All rows are equally long, so the mean of two micro-batch means is the mean of all.
    rows, parts = training_rows(tmp_path, 8), []
    for name, changes in [("a", {"batch_size": 8}), ("b", {"batch_size": 4, "accumulate": 2})]:
        talker = tiny_talker(tmp_path / name)
        train_stage(talker, stage(train=[*NEW_PARTS, "backbone"], steps=1, clip_norm=1e9, **changes), rows)
        parts.append((snapshot(talker.model), talker.config.history[0].loss_first))
    assert parts[0][1] == pytest.approx(parts[1][1], rel=1e-5)
    fresh = snapshot(tiny_talker(tmp_path / "c").model)
    step = parts[0][0]["heads"]["linear.weight"] - fresh["heads"]["linear.weight"]
    other = parts[1][0]["heads"]["linear.weight"] - fresh["heads"]["linear.weight"]
    # Adam's first step is the gradient's sign: that agrees but for gradients of rounding size.
    assert (torch.sign(step) == torch.sign(other)).float().mean() > 0.99
    assert step.abs().max() == pytest.approx(1e-3, rel=1e-2)


# Schedule and optimizer


def test_the_schedule_by_hand() -> None:
    rates = [learning_rate(s, steps=7, peak=1.0, floor=0.2, warmup=2) for s in range(7)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.2 + 0.8 * (0.5 + 0.25 * math.sqrt(2)), 0.6,
                                   0.2 + 0.8 * (0.5 - 0.25 * math.sqrt(2)), 0.2])  # fmt: skip
    assert learning_rate(0, steps=1, peak=1.0, floor=0.1, warmup=0) == 1.0
    assert [learning_rate(s, steps=3, peak=1.0, floor=0.0, warmup=4) for s in range(3)] == [0.25, 0.5, 0.75]


def test_the_learning_rate_is_the_schedules(talker: Talker, tmp_path: Path) -> None:
    seen: list[float] = []
    watcher = Watcher(step=lambda stage, step, metrics: seen.append(metrics["learning_rate"]))
    short = stage(steps=4, warmup_steps=1, learning_rate=1e-2, learning_rate_floor=1e-3)
    train_stage(talker, short, training_rows(tmp_path, 2), watcher=watcher)
    expected = [learning_rate(s, steps=4, peak=1e-2, floor=1e-3, warmup=1) for s in range(4)]
    assert seen == expected


def test_only_matrices_decay(talker: Talker) -> None:
    apply_freeze(talker.model, EVERY_PART)
    names = {id(p): n for n, p in talker.model.named_parameters()}
    groups = _optimizer(talker.model, stage(train=EVERY_PART, weight_decay=0.3)).param_groups
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
    record = train_stage(talker, stage(**{**settings, "batch_size": 4, **changes}), rows)
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
        for example, (text, reason, frames, codes) in zip(examples, answers(talker, rows, options), strict=True):
            assert (text, reason, frames) == (example.row.answer_text, "stop", 4)
            assert example.codes is not None
            assert np.array_equal(codes.numpy(), example.codes)
    written = answers(talker, rows, DecodeOptions(max_columns=40), task="A1T2")
    assert [w[:2] for w in written] == [(row.answer_text, "stop") for row in rows]


def test_the_history_of_a_stage_is_kept(talker: Talker, tmp_path: Path) -> None:
    before = probe(talker)
    record = train_stage(talker, stage(steps=5, log_every=2), training_rows(tmp_path, 2))
    history = tmp_path / "t" / "history"
    log = [json.loads(line) for line in (history / "short.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [2, 4, 5]
    assert set(log[0]) == {
        "step", "text", "audio0", "audio1", "audio2", "audio", "loss", "learning_rate", "positions_per_s"
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
    train_stage(talker, stage(name="one"), rows)
    record = train_stage(talker, stage(name="two"), rows, precision="bf16")
    assert math.isfinite(record.loss_last)
    assert talker.model.get_parameter("heads.linear.weight").dtype is torch.float32
    assert same(probe(talker), probe(load_talker(tmp_path / "t")))
    train_stage(talker, stage(name="three"), rows)


# What users get wrong


def test_a_stage_whose_tasks_do_not_use_what_it_trains_is_refused(tmp_path: Path) -> None:
    talker, rows = tiny_talker(tmp_path / "t"), training_rows(tmp_path, 2)
    with pytest.raises(ConfigError, match="trains heads, but no task of it uses that"):
        train_stage(talker, stage(train=["heads"], tasks={"A1T1": 1, "T1T2": 1}), rows)
    before = snapshot(talker.model)
    # With one task that does, batches without it are passed over.
    record = train_stage(talker, stage(train=["heads"], tasks={"T1T2": 1, "T1A2": 1}, steps=6, batch_size=1), rows)
    assert moved_parts(before, talker.model) == {"heads"}
    assert record.steps == 6


def test_wrong_stages_are_sentences(talker: Talker, tmp_path: Path) -> None:
    rows = training_rows(tmp_path, 2)
    with pytest.raises(UnknownNameError, match="unknown task 'A1A3'; did you mean"):
        train_stage(talker, stage(tasks={"A1A3": 1}), rows)
    with pytest.raises(ConfigError, match="2 stream_weights, the talker 3 streams"):
        train_stage(talker, stage(stream_weights=[1.0, 1.0]), rows)
    with pytest.raises(DataError, match="no rows"):
        train_stage(talker, stage(), [])
    with torch.no_grad():
        talker.model.get_parameter("heads.linear.weight").fill_(torch.nan)
    with pytest.raises(ConfigError, match="loss of stage 'short' is nan at step 1"):
        train_stage(talker, stage(), rows)
    talker.folder = None
    with pytest.raises(TalkerError, match="must be saved before"):
        train_stage(talker, stage(), rows)
    assert load_talker(tmp_path / "t").config.history == []
