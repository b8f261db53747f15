"""The last blocks of Whisper's encoder, trained with an input adapter that hears letters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import stage, tiny_talker, train, training_rows
from safetensors.torch import load_file

from anytalk.errors import AnytalkError
from anytalk.model.talker import load_talker, save_talker
from anytalk.plugins.components import PartRef
from anytalk.plugins.contracts import SpeechEncoder
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_input_adapter
from anytalk.plugins.testing.adapters import tiny_context
from anytalk_adapters.whisper_blocks import WhisperBlocks

OPTIONS = {"width": 16, "num_blocks": 1, "whisper_blocks": 1, "whisper": "random:toy"}
ENCODER = "encoder={name: whisper, options: {model: 'random:toy', num_blocks: 1}}"
LISTENS = "input_adapter={name: letters, options: {width: 16, num_blocks: 1, whisper_blocks: 1, whisper: 'random:toy'}}"


def encoder(**options: object) -> SpeechEncoder:
    built: SpeechEncoder = default_registry().build(
        "speech encoder", PartRef(name="whisper", options={"model": "random:toy", **options})
    )
    return built


@torch.no_grad()
def test_frozen_and_trained_blocks_together_are_the_whole_encoder() -> None:
    wave, lengths = torch.randn(2, 9600) * 0.1, torch.tensor([9600, 4000])
    whole, counts = encoder()(wave, lengths)
    hidden, same = encoder(num_blocks=1)(wave, lengths)
    assert torch.equal(counts, same)
    assert not torch.allclose(hidden, whole, atol=0.1)
    found = WhisperBlocks("random:toy", 1)(hidden, counts)
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(found[row, :count], whole[row, :count], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["letters", "ctc"])
def test_the_contract_holds(name: str) -> None:
    options = dict(OPTIONS)
    check_input_adapter(name, options=options, context=replace(tiny_context(), encoder_width=64))


def test_training_changes_the_blocks_and_they_come_back_from_the_folder(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", ENCODER, LISTENS)
    before = {name: tensor.clone() for name, tensor in WhisperBlocks("random:toy", 1).state_dict().items()}
    align = stage(name="a", train=["input_adapter"], tasks={"A1T1": 1.0}, losses={"align": 1.0}, steps=30)
    record = train(talker, align, training_rows(tmp_path, 2, question_s=0.6))
    assert record.loss_last < record.loss_first
    save_talker(talker, tmp_path / "trained", {"input_adapter"})
    adapter = load_talker(tmp_path / "trained").model.input_adapter
    blocks = adapter.whisper.state_dict()
    assert all(
        torch.equal(tensor, talker.model.input_adapter.whisper.state_dict()[name]) for name, tensor in blocks.items()
    )
    changed = [name for name, tensor in blocks.items() if not torch.equal(tensor, before[name])]
    assert len(changed) > len(before) - 3, f"unchanged: {sorted(set(before) - set(changed))}"
    weights = next((tmp_path / "trained").glob("*.safetensors"))
    assert any(".whisper.blocks." in name for name in load_file(weights))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([ENCODER, LISTENS.replace("whisper_blocks: 1", "whisper_blocks: 2")], "has 2 blocks"),
        ([ENCODER.replace("num_blocks: 1", "num_blocks: 2"), LISTENS], "has 2 blocks"),
        ([ENCODER, LISTENS.replace("whisper_blocks: 1, ", "")], "set both, or neither"),
        ([LISTENS], "name the same Whisper in both"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Path, settings: list[str], said: str) -> None:
    with pytest.raises(AnytalkError, match=said):
        tiny_talker(tmp_path / "t", *settings)
