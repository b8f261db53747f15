"""The loss of a step: right by hand, and the same however the step is cut into passes."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import calm_plugin
import pytest
import torch
from helpers import NEW_PARTS, make_examples, stage, tiny_talker, train, training_rows
from training import assert_close, by_hand, first_step, items_of, losses_of, mixed_rows, run_step

from anytalk.data.batches import Batch
from anytalk.errors import ConfigError
from anytalk.grid.tasks import TASKS
from anytalk.model.attach import attach
from anytalk.model.routes import ThroughBackbone
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Merged
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import Registry
from anytalk.train.freeze import apply_freeze
from anytalk.train.losses import AudioLoss, LossModule, TextLoss

EVERY_TASK = dict.fromkeys(TASKS, 1.0)
ROWS_OF_A_STEP = 12


@pytest.fixture
def talker(tmp_path: Path) -> Talker:
    return tiny_talker(tmp_path / "t", "speakers=[anna, ben]")


def test_cross_entropy_by_hand() -> None:
    # One row of text and one audio stream: V 2, C 1 and four specials. Hidden states are one-hot, logits are tables.
    text_table = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    audio_table = torch.tensor([[0.0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0], [1.0, 3, 0, 0, 0]])
    states = torch.eye(3)[None]  # column t -> row t
    model: Any = SimpleNamespace(
        layout=SimpleNamespace(text_row=1, num_audio_streams=1),
        merge="mean",
        route=ThroughBackbone(),
        embed=lambda batch, always: Merged(states, None),
        backbone=lambda embeds: SimpleNamespace(normed=embeds),
        output_adapter=lambda read, cache: read.normed,
        text_logits=lambda hidden: hidden @ text_table,
        audio_logits=lambda hidden: (hidden @ audio_table)[:, None],
    )
    batch = Batch(
        tokens=torch.tensor([[[4, 1, 0], [1, 0, 1]]]),
        loss_mask=torch.tensor([[[False, True, False], [False, True, True]]]),
        speech=[[]],
        features=None,
        waves=None,
        lengths=None,
        answer_mask=torch.zeros(1, 3, dtype=torch.bool),
        speaker=torch.zeros(1, dtype=torch.int64),
    )
    module = LossModule(model, {TextLoss(): 0.5, AudioLoss(model): 2.0})
    factors = module.factors({"text": 2, "audio0": 1})
    expected = {"text": 0.25, "audio0": 2.0}
    assert dict(zip(module.names, factors.tolist(), strict=True)) == expected
    loss, sums = module(batch, factors)
    # Token t is predicted from column t-1: text 0 from (0,1), text 1 from (2,0); audio 1 from (0,0,0,0,0).
    text = math.log(1 + math.e) + math.log(math.e**2 + 1)
    assert sums.tolist() == pytest.approx([text, math.log(5)])
    assert float(loss) == pytest.approx(0.5 * text / 2 + 2 * math.log(5))


COUNTS = {"text": 4, "audio0": 2, "audio1": 5, "audio2": 1}


@pytest.mark.parametrize(
    ("weights", "streams", "counts", "expected"),
    [
        ({"text": 1, "audio": 1}, None, COUNTS, [1 / 4, 1 / 6, 1 / 15, 1 / 3]),
        ({"audio": 2.0}, [1, 2, 5], COUNTS, [2 / 8 / 2, 4 / 8 / 5, 10 / 8]),
        ({"distill": 3.0, "text": 1.0}, None, {"text": 2, "distill": 4}, [1 / 2, 3 / 4]),
    ],
)
def test_what_each_sum_counts(
    weights: dict[str, float],
    streams: list[float] | None,
    counts: dict[str, int],
    expected: list[float],
    talker: Talker,
) -> None:
    module = LossModule(talker.model, losses_of(talker, weights, stream_weights=streams))
    names = ["audio0", "audio1", "audio2"] if "audio" in weights else ["distill"]
    assert module.names == [*(["text"] if "text" in weights else []), *names]
    assert module.factors(counts).tolist() == pytest.approx(expected)


SETTINGS: dict[str, tuple[dict[str, float], list[float] | None, dict[str, float]]] = {
    "plain": ({"text": 1.0, "audio": 1.0}, None, {"text": 1.0, "audio0": 1 / 3, "audio1": 1 / 3, "audio2": 1 / 3}),
    "weighed": (
        {"text": 0.5, "audio": 2.0},
        [1, 2, 5],
        {"text": 0.5, "audio0": 2 / 8, "audio1": 4 / 8, "audio2": 10 / 8},
    ),
    "no text": ({"audio": 1.0}, None, {"text": 0.0, "audio0": 1 / 3, "audio1": 1 / 3, "audio2": 1 / 3}),
    "no audio": ({"text": 1.0}, None, {"text": 1.0, "audio0": 0.0, "audio1": 0.0, "audio2": 0.0}),
}


@pytest.mark.parametrize("uniform", [False, True], ids=["sparing", "uniform"])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("grid", [[], ["grid.merge=mean", "grid.prompt=raw", "grid.end_of_text=eot"]], ids=["a", "b"])
def test_a_step_equals_its_tokens_one_by_one(name: str, uniform: bool, grid: list[str], tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", "speakers=[anna, ben]", *grid)
    chosen, streams, weights = SETTINGS[name]
    losses = losses_of(talker, chosen, stream_weights=streams)
    apply_freeze(talker.model, [*NEW_PARTS, "backbone", "speaker"])
    rows = mixed_rows(tmp_path)
    rows[1:3] = [replace(row, speaker="ben") for row in rows[1:3]]
    examples = make_examples(talker, rows, list(TASKS.values()))
    step = first_step(talker, rows, EVERY_TASK, batch_size=ROWS_OF_A_STEP)
    assert set(step.tasks) == set(range(6))
    assert step.counts["text"] > 40
    loss, means, gradients = by_hand(talker, items_of(talker, step, examples, list(EVERY_TASK)), weights)
    for max_positions, passes in [(10_000, 1), (300, None), (1, ROWS_OF_A_STEP)]:
        cut = first_step(talker, rows, EVERY_TASK, batch_size=ROWS_OF_A_STEP, max_positions=max_positions)
        assert passes in (None, len(cut.passes))
        assert cut.counts == step.counts
        found, by_name, moved = run_step(talker, cut, losses, uniform=uniform)
        assert found == pytest.approx(loss, rel=1e-5)
        expected = {n: v for n, v in means.items() if weights[n]}
        assert {n: v for n, v in by_name.items() if v} == pytest.approx(expected, rel=1e-5)
        assert_close(moved, gradients)


def test_a_trained_encoder_is_in_the_loss_of_every_cut(tmp_path: Path) -> None:
    talker, rows = tiny_talker(tmp_path / "t"), mixed_rows(tmp_path)
    tasks = {"A1A2": 1.0, "A1T1": 1.0, "T1T2": 1.0}
    apply_freeze(talker.model, ["encoder"])
    examples = make_examples(talker, rows, [TASKS[name] for name in tasks], True)
    step = first_step(talker, rows, tasks, waves=True)
    *_, weights = SETTINGS["plain"]
    loss, _, gradients = by_hand(talker, items_of(talker, step, examples, list(tasks)), weights)
    assert gradients
    assert all(name.startswith("encoder.") for name in gradients)
    for max_positions in (1, 300, 10_000):
        for uniform in (False, True):
            cut = first_step(talker, rows, tasks, waves=True, max_positions=max_positions)
            found, _, moved = run_step(talker, cut, uniform=uniform)
            assert found == pytest.approx(loss, rel=1e-5)
            assert_close(moved, gradients, 1e-4)


def test_a_shared_prompt_changes_nothing_but_time(tmp_path: Path) -> None:
    talker, rows = tiny_talker(tmp_path / "t", "grid.system=You are a voice that answers."), mixed_rows(tmp_path)
    apply_freeze(talker.model, NEW_PARTS)
    step = first_step(talker, rows, EVERY_TASK, batch_size=ROWS_OF_A_STEP)
    seen: list[int] = []
    talker.model.backbone.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:2].numel()))
    found, positions = [], []
    for share in (True, False):
        seen.clear()
        found.append(run_step(talker, step, share_prefix=share))
        positions.append(sum(seen))
    # <|im_start|>, "system\n" 7, the message 29, <|im_end|>, "\n", <|im_start|>, "user\n" 5 but for its last column, on
    # which input_a rides: 44, run once instead of in every row.
    assert positions[1] - positions[0] == 44 * (ROWS_OF_A_STEP - 1)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert_close(found[0][2], found[1][2])


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
    step, layout = first_step(talker, training_rows(tmp_path, 2), {task: 1.0}, batch_size=2), talker.model.layout
    (batch,) = step.passes
    _, means, gradients = run_step(talker, step)
    assert ("text" in means, "audio0" in means, "audio2" in means) == (learns_text, learns_audio, learns_audio)
    assert ("heads.linear.weight" in gradients) == learns_audio
    answers = batch.tokens[batch.loss_mask]
    num_text = 4 if task == "A1T1" else 3  # "q0?" or "ab", and its end
    assert len(answers) == 2 * (num_text * learns_text + 3 * 5 * learns_audio)  # 4 frames and eoa
    assert step.counts["text"] == 2 * num_text * learns_text
    assert [step.counts[f"audio{k}"] for k in range(3)] == [10 * learns_audio] * 3
    prompt = [int(mask.any(0).nonzero()[0]) for mask in batch.loss_mask]
    assert not any(batch.loss_mask[i, :, : prompt[i]].any() for i in range(2))
    assert not (batch.tokens[:, : layout.text_row][batch.loss_mask[:, : layout.text_row]] == layout.pad_a).any()


def test_uniform_passes_run_every_module(talker: Talker, tmp_path: Path) -> None:
    """Engines that shard parameters wait for each other in each module: none may be left out on one device."""
    ran: list[set[str]] = []
    parts = {n: m for n, m in talker.model.parts().items() if n not in ("encoder", "audio_embeddings", "speaker")}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: ran[-1].add(name))
    apply_freeze(talker.model, NEW_PARTS)
    for task in TASKS:
        step = first_step(talker, training_rows(tmp_path, 1), {task: 1.0}, batch_size=1)
        for uniform in (True, False):
            ran.append(set())
            run_step(talker, step, uniform=uniform)
    always = parts.keys() - {"special_tokens"}  # tables that the model reads itself
    assert all(seen == always for seen in ran[::2])
    assert ran[2 * list(TASKS).index("T1T2") + 1] == {"backbone"}, "and none is run for nothing elsewhere"


def test_an_unknown_loss_lists_those_of_the_talker(talker: Talker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"this talker has no loss 'texts'.*'text'") as caught:
        train(talker, stage(losses={"texts": 1.0}), training_rows(tmp_path, 2))
    assert caught.value.hint == "it has: audio, distill, text"


def test_rows_that_do_not_speak_run_a_speech_decoder_in_uniform_passes(tmp_path: Path) -> None:
    """Engines that shard parameters wait for each other in the decoder, also where a device's rows don't speak."""
    decoder = "output_adapter={name: talker, options: {width: 64, num_layers: 1, letter_width: 64}}"
    talker = tiny_talker(tmp_path / "t", decoder)
    step = first_step(talker, training_rows(tmp_path, 2), {"T1T2": 1.0}, batch_size=2)
    loss, means, _ = run_step(talker, step, uniform=True)
    assert loss == pytest.approx(means["text"])


def test_a_plugin_brings_a_loss(tmp_path: Path) -> None:
    plugins = build_plugins(third_party=False)
    plugins.register(calm_plugin, "calm", "somebody-elses", "1.0")
    parts = ["encoder={name: tiny}", "codec={name: tiny}", "output_adapter={name: calm}", "backbone.options={}"]
    talker = attach("tiny", tmp_path / "t", backbone="tiny", assignments=parts, registry=Registry(plugins))
    calming = stage(train=["output_adapter"], losses={"text": 1.0, "calm": 1.0}, steps=20, learning_rate=0.1)
    train(talker, calming, training_rows(tmp_path, 2))
    log = [json.loads(line) for line in (tmp_path / "t/history/short.jsonl").read_text().splitlines()]
    assert log[-1]["calm"] < 0.2 * log[0]["calm"]
    assert log[-1]["text"] == pytest.approx(log[0]["text"])
    assert log[0]["loss"] == pytest.approx(log[0]["text"] + log[0]["calm"])
    with pytest.raises(ConfigError) as caught:
        train(talker, stage(losses={"calmer": 1.0}), training_rows(tmp_path, 2))
    assert "calmer" in caught.value.message
    assert caught.value.hint == "it has: audio, calm, distill, text"
