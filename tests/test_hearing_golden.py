"""What ears hear must not change: the same columns and tokens as when the search was part of the adapter `ctc`."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from helpers import tiny_talker
from torch import Tensor

from anytalk.decode.session import listen
from anytalk.grid.audio import read_wave
from anytalk.model.config import CONFIG_FILE, read_config
from anytalk.model.talker import Talker, load_talker
from anytalk.model.version1 import with_hearing

GOLDEN = Path(__file__).parent / "golden" / "heard.safetensors"
EXAMPLES = Path(__file__).parent.parent / "examples"
SHIPPED = EXAMPLES / "talkers" / "smollm2-135m-assistant"
CTC = {"width": 16, "num_blocks": 1}
SEARCHED = {"factor": 3, "candidates": 6, "beam": 8, "hearings": 2, "fusion": 0.5, "fusion_context": "so: "}
LINES = {
    "demo/france.wav": (1780, 314, 260, 3575, 4649, 47),
    "talkers/smollm2-135m-assistant/samples/01-question.wav": (2020, 536, 346, 15362, 22031, 47),
    "talkers/smollm2-135m-assistant/samples/04-question.wav": (14413, 314, 5331, 28, 253, 8303, 355, 253, 4445, 47),
    "talkers/smollm2-135m-assistant/samples/08-question.wav": (19556, 28, 957, 1462, 314, 25056, 30),
}
"""Tokens that the shipped talker hears."""


def wave(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((8_000, 21_000)[seed]) / 10).astype(np.float32)


def as_version_1(folder: Path, options: dict[str, object]) -> Talker:
    """A tiny talker whose talker.yaml names the options of `ctc` as version 1 did."""
    tiny_talker(folder, "input_adapter={name: ctc, options: {width: 16, num_blocks: 1}}")
    data = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    data["format_version"], data["input_adapter"]["options"] = 1, options
    data["grid"]["asr"] = "examples"
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_talker(folder)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return safetensors.torch.load_file(GOLDEN)


@pytest.mark.parametrize("seed", [0, 1])
def test_mixed_columns(seed: int, tmp_path: Path, golden: dict[str, Tensor]) -> None:
    heard = listen(as_version_1(tmp_path / "t", dict(CTC)), wave(seed))
    torch.testing.assert_close(heard.columns, golden[f"mixed.{seed}"])
    assert heard.line is not None
    assert len(heard.line) == heard.num_columns


@pytest.mark.parametrize("seed", [0, 1])
def test_searched_lines(seed: int, tmp_path: Path, golden: dict[str, Tensor]) -> None:
    heard = listen(as_version_1(tmp_path / "t", CTC | SEARCHED), wave(seed))
    assert heard.line == tuple(golden[f"beam.line.{seed}"].tolist())
    torch.testing.assert_close(heard.columns, golden[f"beam.{seed}"])


@pytest.fixture(scope="module")
def shipped() -> Talker:
    return load_talker(SHIPPED)


@pytest.mark.parametrize("name", LINES)
def test_the_shipped_talker(name: str, shipped: Talker) -> None:
    heard = listen(shipped, read_wave(EXAMPLES / name, 16_000))
    assert heard.line == LINES[name]
    assert heard.columns is not None
    assert torch.equal(heard.columns, shipped.model.backbone.embed_text(torch.tensor([heard.line]))[0])


def test_version_1_options_find_their_place() -> None:
    config = read_config(SHIPPED)
    assert config.hearing is not None
    assert config.hearing.options["context"].endswith("<|im_start|>user\n")
    plain = {"input_adapter": {"name": "ctc", "options": {"beam": 1, "fusion": 0.5, "factor": 3}}}
    assert with_hearing(plain) == {"input_adapter": {"name": "ctc", "options": {"factor": 3}}}
    assert with_hearing({"input_adapter": None, "grid": {"asr": "examples", "text_lead": 2}}) == {
        "input_adapter": None,
        "grid": {"text_lead": 2},
    }
    assert with_hearing({"input_adapter": ["wrong"], "grid": 3}) == {"input_adapter": ["wrong"], "grid": 3}
