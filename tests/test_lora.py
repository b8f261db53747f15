"""Low-rank updates: nothing at the start, only they move, nothing but their sum is left at the end."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from helpers import (
    NEW_PARTS,
    TINY_PARTS,
    make_examples,
    model_folder,
    moved_parts,
    probe,
    same,
    snapshot,
    stage,
    tiny_talker,
    train,
    training_rows,
)
from training import interrupted_after

from anytalk.errors import ConfigError
from anytalk.grid.tasks import TASKS
from anytalk.model.attach import attach
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.contracts import Row
from anytalk.plugins.hf.loading import quiet_transformers
from anytalk.train.config import LoraConfig, StageConfig
from anytalk.train.freeze import apply_freeze
from anytalk.train.loop import TrainingWatcher
from anytalk.train.lora import add_lora, is_lora, merge_lora

FAMILIES = ["llama", "qwen2", "gpt_neox", "gemma"]
LORA = LoraConfig(rank=3, alpha=6)


def family_talker(folder: Path, family: str) -> Talker:
    if family == "tiny":
        return tiny_talker(folder / "t")
    return attach(str(model_folder(folder / "model", family)), folder / "t", assignments=TINY_PARTS)


def heard(talker: Talker) -> tuple[torch.Tensor, ...]:
    """Everything that a talker computes: its encoder's features, text logits and audio logits."""
    wave = torch.randn(1, 3200, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return (*probe(talker), talker.model.encode_speech(wave, torch.tensor([3200]))[0])


def updates(model: TalkModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if is_lora(name)}


def shift(model: TalkModel) -> None:
    with torch.no_grad():
        for i, parameter in enumerate(updates(model).values()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))


@pytest.mark.parametrize("family", ["tiny", *FAMILIES])
def test_updates_start_at_nothing_and_end_in_the_weights(family: str, tmp_path: Path) -> None:
    talker = family_talker(tmp_path, family)
    model, fresh, names = talker.model, heard(talker), list(talker.model.state_dict())
    apply_freeze(model, ["backbone", "encoder"], {"backbone": LORA, "encoder": LORA})
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(updates(model))
    assert {name.split(".")[0] for name in trainable} == {"backbone", "encoder"}
    assert all(3 in p.shape for p in updates(model).values())
    model.eval()
    assert same(heard(talker), fresh)
    shift(model)
    unmerged = heard(talker)
    assert not same(unmerged, fresh)
    for name in ("backbone", "encoder"):
        merge_lora(model.parts()[name])
    assert list(model.state_dict()) == names, "plain layers are back in their places"
    for one, other in zip(heard(talker), unmerged, strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)


def test_the_merged_weight_by_hand(tmp_path: Path) -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(4, 2))
    weight = layer[0].weight.detach().clone()
    add_lora(layer, LoraConfig(rank=1, alpha=3), "encoder")
    named = dict(layer.named_parameters())
    with torch.no_grad():
        named["0.lora_A.default.weight"].copy_(torch.tensor([[1.0, 2, 0, -1]]))
        named["0.lora_B.default.weight"].copy_(torch.tensor([[1.0], [-2]]))
    merge_lora(layer)
    assert isinstance(layer[0], torch.nn.Linear)
    # alpha / rank x B A
    expected = weight + 3 * torch.tensor([[1.0, 2, 0, -1], [-2, -4, 0, 2]])
    assert torch.allclose(layer[0].weight, expected)


def test_heads_of_the_text_are_left_alone_where_they_are_the_embedding(tmp_path: Path) -> None:
    for family, tied in [("qwen2", True), ("llama", False), ("gemma", True)]:
        (tmp_path / family).mkdir()
        lm: Any = family_talker(tmp_path / family, family).model.backbone
        is_tied = lm.lm.get_input_embeddings().weight is lm.lm.get_output_embeddings().weight
        assert is_tied is tied
        add_lora(lm, LORA, "backbone")
        named = [name for name, p in lm.named_parameters() if is_lora(name)]
        assert len(named) == 2 * 7 * 3, "q k v o gate up down of three layers"
        assert not any("lm_head" in name or "embed" in name for name in named)
        merge_lora(lm)
        assert (lm.lm.get_input_embeddings().weight is lm.lm.get_output_embeddings().weight) is tied


def test_named_layers_only(tmp_path: Path) -> None:
    model = family_talker(tmp_path, "llama").model
    apply_freeze(model, ["backbone"], {"backbone": LoraConfig(targets=["q_proj", "v_proj"])})
    layers = {name.rsplit(".lora_", 1)[0].rsplit(".", 1)[1] for name in updates(model)}
    assert layers == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("part", "target", "words", "hint"),
    [
        ("backbone", "q_prj", "lora on 'backbone'", "q_proj"),
        ("encoder", "q_proj", "lora on 'encoder'", "enter, leave"),
    ],
)
def test_a_layer_that_is_not_there_is_a_sentence(part: str, target: str, words: str, hint: str, tmp_path: Path) -> None:
    model = family_talker(tmp_path, "llama").model
    with pytest.raises(ConfigError) as caught:
        apply_freeze(model, [part], {part: LoraConfig(targets=[target])})
    assert words in caught.value.message
    assert target in caught.value.message
    assert hint in caught.value.hint
    assert not updates(model)


# A stage

SHORT: dict[str, Any] = {
    "train": ["encoder", "input_adapter", "backbone"],
    "lora": {"backbone": {"rank": 4, "dropout": 0.2}, "encoder": {"rank": 2}},
    "tasks": {"A1T1": 1, "A1A2": 1},
    "steps": 6,
    "checkpoint_every": 2,
}


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return training_rows(tmp_path, 3)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_stage_of_updates(family: str, rows: list[Row], tmp_path: Path) -> None:
    talker = family_talker(tmp_path, family)
    before, seen = snapshot(talker.model), []

    def step(_: StageConfig, number: int, metrics: dict[str, float]) -> None:
        named = dict(talker.model.named_parameters())
        held = {n.replace(".base_layer", ""): p for n, p in named.items() if not is_lora(n)}
        still = [torch.equal(before["backbone"][n.removeprefix("backbone.")], p)
                 for n, p in held.items() if n.startswith("backbone.")]  # fmt: skip
        seen.append(all(still) and len(still) > 20)

    record = train(talker, stage(**SHORT), rows, TrainingWatcher(step=step))
    assert seen == [True] * 6, "whole matrices stand still until the end"
    assert record.trained == ["backbone", "encoder", "input_adapter"]
    assert moved_parts(before, talker.model) == {"encoder", "input_adapter", "backbone"}
    loaded = load_talker(tmp_path / "t")
    assert not updates(loaded.model)
    assert same(heard(loaded), heard(talker))
    history = tmp_path / "t" / "history"
    for part, rank in [("backbone", 4), ("encoder", 2)]:
        tensors = safetensors.torch.load_file(history / f"short.{part}.lora.safetensors")
        assert tensors
        assert all(is_lora(name) and rank in tensor.shape for name, tensor in tensors.items())
        scale = 32 / rank  # alpha / rank
        for key in (name for name in tensors if "lora_A" in name):
            whole = key.replace(".lora_A.default", "")
            product = tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
            moved = talker.model.parts()[part].state_dict()[whole]
            assert torch.allclose(moved, before[part][whole] + scale * product, atol=1e-6)
    native = next((tmp_path / "t").glob("backbone-*"))
    ids = torch.tensor([[70, 71, 72]])
    with quiet_transformers(), torch.no_grad():
        lm = transformers.AutoModelForCausalLM.from_pretrained(native)
        backbone = loaded.model.backbone
        expected = backbone.text_logits(backbone(backbone.embed_text(ids)).normed)
        assert torch.equal(lm(input_ids=ids).logits, expected)


def test_stopping_in_the_middle_changes_nothing(rows: list[Row], tmp_path: Path) -> None:
    ends, model = [], str(model_folder(tmp_path / "model", "llama"))
    for name, stops in [("a", []), ("b", [3, 1])]:
        talker = attach(model, tmp_path / name, assignments=TINY_PARTS)
        for i, stop in enumerate(stops):
            torch.manual_seed(100 + i)  # what a process drew before is not what the next one drew
            with pytest.raises(KeyboardInterrupt):
                train(talker, stage(**SHORT), rows, watcher=interrupted_after(stop))
            talker = load_talker(tmp_path / name)
        torch.manual_seed(7)
        train(talker, stage(**SHORT), rows)
        ends.append(load_talker(tmp_path / name))
    assert moved_parts(snapshot(ends[0].model), ends[1].model) == set()


def test_two_stages_of_updates_in_one_job(rows: list[Row], tmp_path: Path) -> None:
    talker = family_talker(tmp_path, "llama")
    train(talker, stage(**{**SHORT, "steps": 2, "name": "one"}), rows)
    before = snapshot(talker.model)
    train(talker, stage(**{**SHORT, "steps": 2, "name": "two"}), rows)
    assert moved_parts(before, talker.model) == {"encoder", "input_adapter", "backbone"}
    before = snapshot(talker.model)
    train(talker, stage(train=NEW_PARTS, name="three", steps=1), rows)
    assert "backbone" not in moved_parts(before, talker.model)
    assert same(heard(load_talker(tmp_path / "t")), heard(talker))
    assert make_examples(talker, rows, [TASKS["A1A2"]])
