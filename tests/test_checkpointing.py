"""Gradient checkpointing: the same numbers, fewer kept activations."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from helpers import NEW_PARTS, TINY_PARTS, all_logits, model_folder, stage, tiny_talker, train, training_rows
from test_backbones import make_tokenizer
from training import assert_close, first_step, interrupted_after, mixed_rows, run_step

from anytalk.errors import ConfigError
from anytalk.model.attach import attach
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.hf.loading import quiet_transformers
from anytalk.train.freeze import apply_freeze
from anytalk.train.loop import TrainingWatcher
from anytalk_backbones.hf import HFBackbone

TASKS = {"A1A2": 1.0, "A1T1": 1.0, "T1T2": 1.0}


def family_talker(folder: Path, family: str) -> Talker:
    return attach(str(model_folder(folder / "model", family)), folder / "t", assignments=TINY_PARTS)


@contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """Bytes that autograd keeps for the way back, parameters left out."""
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gemma"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_losses_and_gradients_are_the_same_with_less_kept(family: str, frozen: bool, tmp_path: Path) -> None:
    talker, rows = family_talker(tmp_path, family), mixed_rows(tmp_path)
    apply_freeze(talker.model, NEW_PARTS if frozen else [*NEW_PARTS, "backbone"])
    step = first_step(talker, rows, TASKS, max_positions=300)
    found = []
    for enabled in (False, True):
        talker.model.backbone.checkpoint_activations(enabled)
        with kept_bytes() as kept:
            loss, means, gradients = run_step(talker, step, share_prefix=False)
        found.append((loss, means, gradients, sum(kept)))
    (loss, means, gradients, all_kept), (again, others, recomputed, fewer) = found
    assert again == pytest.approx(loss, rel=1e-6)
    assert others == pytest.approx(means, rel=1e-6)
    assert_close(recomputed, gradients, 1e-5)
    assert any(name.startswith("backbone.") for name in gradients) is not frozen
    assert "input_adapter" in {name.split(".")[0] for name in gradients}
    assert fewer < 0.75 * all_kept
    talker.model.backbone.checkpoint_activations(False)
    with kept_bytes() as kept:
        run_step(talker, step, share_prefix=False)
    assert sum(kept) == all_kept
    assert {m.training for m in talker.model.backbone.modules()} == {not frozen}, "as if nothing had been"


def test_dropout_stays_off_in_a_frozen_backbone(tmp_path: Path) -> None:
    """What turns recomputation on must not be taken for leave to drop."""
    model = model_folder(tmp_path / "model", "gpt_neox")
    config = transformers.GPTNeoXConfig.from_pretrained(model)
    config.hidden_dropout = config.attention_dropout = 0.5
    config.save_pretrained(model)
    talker = attach(str(model), tmp_path / "t", assignments=TINY_PARTS)
    drops = [m for m in talker.model.backbone.modules() if isinstance(m, torch.nn.Dropout)]
    assert {m.p for m in drops} == {0.5}
    apply_freeze(talker.model, ["input_adapter"])
    step = first_step(talker, mixed_rows(tmp_path), TASKS)
    plain, _, gradients = run_step(talker, step, share_prefix=False)
    talker.model.backbone.checkpoint_activations(True)
    for _ in range(2):
        loss, _, recomputed = run_step(talker, step, share_prefix=False)
        assert loss == pytest.approx(plain, rel=1e-6)
        assert_close(recomputed, gradients, 1e-5)


def test_layers_that_drop_by_their_own_flag_stay_frozen() -> None:
    """OPT's layers call dropout with their own ``training``; they must not be told that they train."""
    with quiet_transformers():
        config = transformers.OPTConfig(
            vocab_size=300, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=64, word_embed_proj_dim=32, dropout=0.5,
        )  # fmt: skip
        backbone = HFBackbone(transformers.OPTForCausalLM(config).eval(), make_tokenizer())
    backbone.eval().requires_grad_(False)
    embeds = torch.randn(2, 9, 32, requires_grad=True)
    plain = backbone(embeds).normed.detach()
    backbone.checkpoint_activations(True)
    with kept_bytes() as kept:
        again = backbone(embeds).normed
    assert torch.allclose(again, plain, atol=1e-6)
    fewer = sum(kept)
    backbone.checkpoint_activations(False)
    with kept_bytes() as kept:
        backbone(embeds)
    assert fewer < 0.75 * sum(kept)


def test_a_stage_with_it_ends_like_one_without(tmp_path: Path) -> None:
    rows, ends = training_rows(tmp_path, 3), []
    model = str(model_folder(tmp_path / "model", "llama"))
    for name, enabled in [("a", False), ("b", True)]:
        talker = attach(model, tmp_path / name, assignments=TINY_PARTS)
        losses: list[float] = []
        watcher = TrainingWatcher(step=lambda _, step, metrics, losses=losses: losses.append(metrics["loss"]))
        train(talker, stage(gradient_checkpointing=enabled, learning_rate=1e-3), rows, watcher)
        ends.append(losses)
    assert len(ends[0]) == 3
    assert ends[1] == pytest.approx(ends[0], rel=1e-4)


def test_an_interrupted_stage_leaves_no_trace_in_memory(tmp_path: Path) -> None:
    """Else the same talker could not speak: layers that recompute don't fill a cache."""
    talker, rows = family_talker(tmp_path, "llama"), training_rows(tmp_path, 2)
    with pytest.raises(KeyboardInterrupt):
        train(
            talker,
            stage(train=[*NEW_PARTS, "backbone"], gradient_checkpointing=True),
            rows,
            watcher=interrupted_after(1),
        )
    step, kept = first_step(talker, rows, TASKS), []
    for _ in range(2):
        with kept_bytes() as found:
            run_step(talker, step)
        kept.append(sum(found))
        talker.model.backbone.checkpoint_activations(False)
    assert kept[0] == kept[1]


def test_the_saved_talker_is_the_trained_one(tmp_path: Path) -> None:
    talker, rows = family_talker(tmp_path, "llama"), training_rows(tmp_path, 2)
    train(talker, stage(train=["backbone"], tasks={"T1T2": 1}, gradient_checkpointing=True), rows)
    layout = talker.model.layout
    tokens = torch.full((1, layout.num_streams, 9), layout.pad_a)
    tokens[0, layout.text_row] = torch.arange(60, 69)
    features = torch.randn(1, 3, talker.config.encoder_width)
    loaded = load_talker(tmp_path / "t")
    talker.model.eval()
    for one, other in zip(all_logits(talker, tokens, features), all_logits(loaded, tokens, features), strict=True):
        assert torch.equal(one, other)


def test_a_backbone_that_cannot_says_so(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    with pytest.raises(ConfigError, match="TinyBackbone has no gradient checkpointing") as caught:
        train(talker, stage(gradient_checkpointing=True), training_rows(tmp_path, 1))
    assert "gradient_checkpointing" in caught.value.hint
    assert load_talker(tmp_path / "t").config.history == []
