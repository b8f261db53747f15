"""The example that moves a Whisper encoder's last blocks into a talker's input adapter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers import tiny_talker
from importable import importable

from anytalk.model.talker import Talker, load_talker, save_talker

with importable("ears"):
    import free_blocks

ENCODER = "encoder={name: whisper, options: {model: 'random:toy'}}"
LISTENS = "input_adapter={name: letters, options: {width: 16, num_blocks: 1}}"


def heard(talker: Talker, wave: torch.Tensor) -> torch.Tensor:
    model = talker.model
    with torch.no_grad():
        features, counts = model.encoder(wave, torch.tensor([wave.shape[1]]))
        found: torch.Tensor = model.input_adapter.letter_chances(features, counts)[0]
    return found


def test_the_talker_hears_as_before_and_trains_one_block_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = tiny_talker(tmp_path / "t", ENCODER, LISTENS)
    with torch.no_grad():  # weights that the seed alone wouldn't give
        for tensor in talker.model.input_adapter.parameters():
            tensor.add_(0.01)
    save_talker(talker, tmp_path / "t", {"input_adapter"})
    monkeypatch.setattr(sys, "argv", ["free_blocks", str(tmp_path / "t"), str(tmp_path / "deep"), "--blocks", "1"])
    free_blocks.main()
    deep = load_talker(tmp_path / "deep")
    wave = torch.randn(1, 9600, generator=torch.Generator().manual_seed(0)) * 0.1
    torch.testing.assert_close(heard(deep, wave), heard(talker, wave), atol=1e-4, rtol=1e-4)
    options = deep.config.input_adapter.options
    assert (options["whisper_blocks"], options["whisper"], options["frame_dropout"]) == (1, "random:toy", 0.05)
    assert deep.config.encoder.options["num_blocks"] == 1
    assert len(deep.model.encoder.encoder.blocks) == 1
    assert not (tmp_path / "deep.partial").exists()


def test_another_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_talker(tmp_path / "t")
    monkeypatch.setattr(sys, "argv", ["free_blocks", str(tmp_path / "t"), str(tmp_path / "deep")])
    with pytest.raises(SystemExit, match="encoder 'whisper'"):
        free_blocks.main()
