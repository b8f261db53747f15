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
from anytalk.model.config import CONFIG_FILE
from anytalk.model.talker import Talker, load_talker
from anytalk.model.version1 import from_version_1

GOLDEN = Path(__file__).parent / "golden" / "heard.safetensors"
CTC = {"width": 16, "num_blocks": 1}
SEARCHED = {"factor": 3, "candidates": 6, "beam": 8, "hearings": 2, "fusion": 0.5, "fusion_context": "so: "}


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


def test_version_1_options_find_their_place() -> None:
    searched = from_version_1({"input_adapter": {"name": "ctc", "options": CTC | SEARCHED}})
    assert searched["input_adapter"]["options"] == CTC | {"factor": 3, "candidates": 6}
    options = {"beam": 8, "candidates": 6, "hearings": 2, "weight": 0.5, "context": "so: "}
    assert searched["hearing"] == {"name": "beam", "options": options}
    plain = from_version_1({"input_adapter": {"name": "ctc", "options": {"beam": 1, "fusion": 0.5, "factor": 3}}})
    assert plain["input_adapter"] == {"name": "ctc", "options": {"factor": 3}}
    assert "hearing" not in plain
    assert from_version_1({"grid": {"asr": "examples", "text_lead": 2}})["grid"] == {"text_lead": 2}
