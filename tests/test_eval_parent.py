"""What is left of the parent: nothing lost while the backbone is frozen, and seen where it moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from eval_parts import questions, registry, saved_talker, suite_of
from helpers import greedy_text, model_folder, tiny_talker
from talkers import make_talker

from anytalk.decode.greedy import bare_answer
from anytalk.errors import TalkerError
from anytalk.evaluate.lab import Lab
from anytalk.evaluate.parent import parent_logits, parent_prompt
from anytalk.evaluate.results import Result
from anytalk.evaluate.run import run_measure
from anytalk.model.attach import attach
from anytalk.model.config import TalkerConfig
from anytalk.model.parent import load_parent
from anytalk.model.talker import Talker, load_talker, save_talker

ROWS = [{"question_text": "hello"}, {"question_text": "who are you?"}]
TEXTS = ["The ferry leaves.", "Bread rises."]


def retention(talker: Talker, folder: Path, texts: list[str] = TEXTS) -> Result:
    measure = {"kind": "text_retention", "texts": texts, "max_tokens": 6}
    lab = Lab(talker, suite_of(questions(folder, ROWS), measure), folder)
    result = run_measure(lab, lab.suite.measures[0])
    assert result.status == "ok", result.reason
    return result


def move_backbone(talker: Talker, amount: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in talker.model.backbone.parameters():
            parameter += amount * torch.randn(parameter.shape, generator=generator)


def test_an_attached_talker_has_lost_nothing(tmp_path: Path) -> None:
    found = {name: f.value for name, f in retention(saved_talker(tmp_path / "t"), tmp_path).figures.items()}
    assert found.pop("perplexity_parent") == found.pop("perplexity_talker") > 1
    assert found == {"greedy_agreement": 1.0, "identical_answers": 1.0, "kl": 0.0, "bit_identical": 1.0}


def test_a_moved_backbone_is_seen(tmp_path: Path) -> None:
    talker = saved_talker(tmp_path / "t")
    move_backbone(talker, 0.5)
    result = retention(talker, tmp_path)
    found = {name: f.value for name, f in result.figures.items()}
    assert found["bit_identical"] == 0.0
    assert found["kl"] > 0.01
    assert found["greedy_agreement"] < 1.0
    assert found["identical_answers"] < 1.0
    assert found["perplexity_talker"] != found["perplexity_parent"]
    assert result.worst
    assert all(item["agreeing"] < item["tokens"] for item in result.worst)


@pytest.mark.parametrize(("prompt", "texts"), [("chat", []), ("raw", TEXTS)])
def test_a_tiny_move_is_no_longer_bit_identical(tmp_path: Path, prompt: str, texts: list[str]) -> None:
    # On prompts alone, and on texts alone (raw prompts are not compared).
    talker = saved_talker(tmp_path / "t", f"grid.prompt={prompt}")
    with torch.no_grad():
        for parameter in talker.model.backbone.parameters():
            parameter.mul_(1 + 1e-6)
    found = retention(talker, tmp_path, texts).figures
    assert found["bit_identical"].value == 0.0
    if prompt == "chat":
        assert found["kl"].value < 1e-6
        assert "perplexity_talker" not in found


def test_the_parents_answer_is_the_base_models_greedy_one(tmp_path: Path) -> None:
    talker = saved_talker(tmp_path / "t")
    parent = load_parent(talker)
    prompt = parent_prompt(talker, parent, "hello")
    ids = list(bare_answer(parent, prompt, 6))
    wanted = greedy_text(parent, prompt, 6)
    assert ids == (wanted if len(wanted) == 6 else [*wanted, parent.tokenizer.eos_id])
    logits = parent_logits(parent, [*prompt, *ids])
    assert logits.shape == (len(prompt) + len(ids), parent.text_vocab_size)
    assert logits[len(prompt) - 1].argmax() == ids[0]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_parent_of_a_trained_backbone_is_the_base_model(tmp_path: Path, family: str) -> None:
    model = model_folder(tmp_path / family, family)
    settings = ["encoder=null", "codec={name: tiny}", "output_adapter.options.num_blocks=1"]
    talker = attach(str(model), tmp_path / "t", assignments=settings, registry=registry())
    base = talker.config.base
    move_backbone(talker, 0.3)
    save_talker(talker, tmp_path / "t", trained={"backbone"})
    again = load_talker(tmp_path / "t", registry=registry())
    assert again.config.backbone_folder == "backbone-0001"
    assert base is not None
    assert again.config.backbone.options["model"] == base.model == str(model)
    parent = load_parent(again)
    ids = torch.tensor([[1, 2, 3]])
    assert not torch.equal(parent.embed_text(ids), again.model.backbone.embed_text(ids))
    assert retention(again, tmp_path).figures["bit_identical"].value == 0.0


def test_the_parent_of_a_plugin_that_makes_its_own_weights(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", "backbone.options={width: 16, num_blocks: 1}")
    move_backbone(talker, 0.3)
    save_talker(talker, tmp_path / "t", trained={"backbone"})
    again = load_talker(tmp_path / "t", registry=registry())
    assert again.config.backbone_folder == "backbone-0001"
    assert load_parent(again).width == 16


def config_of(talker: Talker, **changes: Any) -> TalkerConfig:
    return talker.config.replace(**changes)


def test_a_talker_without_a_base_model_says_so() -> None:
    with pytest.raises(TalkerError, match="names no base model"):
        load_parent(make_talker())


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    talker = saved_talker(tmp_path / "t")
    assert talker.config.base is not None
    talker.config = config_of(talker, base={**talker.config.base.model_dump(), "fingerprint": "0" * 16})
    with pytest.raises(TalkerError, match="has other weights"):
        load_parent(talker)


def test_raw_prompts_are_compared_on_texts_only(tmp_path: Path) -> None:
    talker = saved_talker(tmp_path / "t", "grid.prompt=raw")
    result = retention(talker, tmp_path)
    assert "raw prompts" in result.notes[0]
    assert result.figures["bit_identical"].value == 1.0
    assert result.figures["bit_identical"].n == len(ROWS) + len(TEXTS)


def test_imported_end_tokens_do_not_break_the_comparison(tmp_path: Path) -> None:
    talker = saved_talker(tmp_path / "t", "grid.end_of_text=eot")
    found = retention(talker, tmp_path).figures
    assert found["bit_identical"].value == 1.0  # of the vocabulary that both have
    assert 0.0 <= found["greedy_agreement"].value <= 1.0
