"""Matrices in 8 bits are made once from the same weights, and are the same when they are taken from the cache."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from talkers import hf_talker

from anytalk import kernels
from anytalk.decode import ready
from anytalk.decode.ready import make_talker_ready
from anytalk.decode.session import Session
from anytalk.model.talker import Talker
from anytalk.plugins.disk_cache import entries
from anytalk.plugins.hf import onnx_step

pytestmark = pytest.mark.skipif(
    not {"fbgemm", "x86"} & set(torch.backends.quantized.supported_engines), reason="needs fbgemm"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYTALK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def a_talker(folder: Path) -> Talker:
    torch.manual_seed(0)
    return hf_talker(folder / "model", "talker")


def logits(talker: Talker) -> torch.Tensor:
    backbone = talker.model.backbone
    ids = torch.tensor([[5, 9, 3, 7, 1]])
    with torch.no_grad():
        return backbone.text_logits(backbone(backbone.embed_text(ids)).normed)


def never(*_: Any) -> None:
    raise AssertionError("it was made before")


@pytest.mark.parametrize("arithmetic", ["int8", "int4"])
def test_the_second_time_nothing_is_made(arithmetic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_talker_ready(a_talker(tmp_path), arithmetic)
    (entry,) = entries()
    assert entry.path.name.startswith(f"{arithmetic}-1-")
    second = a_talker(tmp_path)
    plain = logits(second)
    monkeypatch.setattr(ready, "calibrate", never)
    monkeypatch.setattr(kernels, "_quantised", never)
    monkeypatch.setattr(onnx_step, "quantise", never)
    make_talker_ready(second, arithmetic)
    assert second.arithmetic == arithmetic
    assert torch.equal(logits(second), logits(first))
    assert not torch.equal(logits(second), plain)
    said = [[getattr(event, "text", "") for event in Session(talker).ask(text="hi")] for talker in (first, second)]
    assert said[0] == said[1]


def test_other_weights_are_made_anew(tmp_path: Path) -> None:
    make_talker_ready(a_talker(tmp_path), "int8")
    moved = a_talker(tmp_path)
    with torch.no_grad():
        moved.model.output_adapter.get_parameter(next(iter(dict(moved.model.output_adapter.named_parameters())))).add_(
            1
        )
    make_talker_ready(moved, "int8")
    assert len(entries()) == 2


@pytest.mark.parametrize("obstacle", ["no cache", "no name"])
def test_without_a_cache_it_is_made_each_time(obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = make_talker_ready(a_talker(tmp_path), "int8")
    if obstacle == "no cache":
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("ANYTALK_CACHE_DIR", str(tmp_path / "file"))
    else:
        monkeypatch.setattr(ready, "_name_of", lambda *_: None)
    made = make_talker_ready(a_talker(tmp_path), "int8")
    assert torch.equal(logits(made), logits(kept))


@pytest.mark.parametrize("shape", [(300, 900), (7, 200_000), (1, 1)])
@pytest.mark.parametrize("balanced", [True, False])
def test_matrices_are_those_of_torchs_own_quantisation(shape: tuple[int, int], balanced: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, peaks = torch.randn(shape, generator=draw) * 0.02, 30 * torch.rand(shape[1], generator=draw)
    weight[-1] *= 1e-29
    whole = weight * kernels.balance(weight, peaks) if balanced else weight
    scales = (whole.abs().amax(dim=1) / 127).clamp_min(1e-30).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = torch.quantize_per_channel(whole, scales, torch.zeros(len(weight)), 0, torch.qint8).int_repr()
    made = kernels._quantised(weight, peaks if balanced else None)
    assert torch.equal(made["weight"], expected)
    assert torch.equal(made["scales"], scales)
