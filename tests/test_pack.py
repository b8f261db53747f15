"""Packed talkers: small, whole, and the same talker up to rounding."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import moved_parts, snapshot, stage, tiny_talker, train, training_rows
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.errors import TalkerError
from anytalk.model.pack import pack
from anytalk.model.talker import Talker, load_talker

MOUTH = ["output_adapter", "heads", "audio_embeddings", "special_tokens"]


def trained(folder: Path, name: str, parts: list[str]) -> Talker:
    talker = tiny_talker(folder / name)
    rows = training_rows(folder, 2)
    train(talker, stage(name=f"stage-{name}", train=parts), rows)
    return talker


def test_a_packed_talker_is_the_talker_rounded(tmp_path: Path) -> None:
    talker = trained(tmp_path, "t", MOUTH)
    (tmp_path / "t" / "history" / "next.checkpoint").mkdir()
    parts = pack(tmp_path / "t", tmp_path / "small")
    packed = load_talker(tmp_path / "small")
    assert packed.config.weights is not None
    assert talker.config.weights is not None
    assert packed.config.replace(weights=None) == talker.config.replace(weights=None)
    assert sorted(p.name for p in (tmp_path / "small").iterdir()) == [
        "README.md", "history", "parts-0001.safetensors", "talker.yaml"
    ]  # fmt: skip
    assert {p.name for p in (tmp_path / "small" / "history").iterdir()} == {"stage-t.png", "stage-t.jsonl"}
    assert packed.config.weights.num_bytes < 0.6 * talker.config.weights.num_bytes
    before, after = snapshot(talker.model), snapshot(packed.model)
    for name in packed.config.weights.parts:
        for key, tensor in before[name].items():
            assert torch.equal(after[name][key], tensor.half().float())
    assert {part.name for part in parts} == set(packed.config.weights.parts)
    assert 0 < max(part.rounding for part in parts) < 0.01
    # Packing is once: what is packed again stays as it is. And it can be trained further.
    pack(tmp_path / "small", tmp_path / "again")
    assert moved_parts(after, load_talker(tmp_path / "again").model) == set()
    train(packed, stage(name="more", train=MOUTH), training_rows(tmp_path, 2))


def test_parts_trained_side_by_side_come_together(tmp_path: Path) -> None:
    mouth, ears = trained(tmp_path, "mouth", MOUTH), trained(tmp_path, "ears", ["input_adapter"])
    pack(tmp_path / "mouth", tmp_path / "both", precision="fp32", take={"input_adapter": tmp_path / "ears"})
    both = load_talker(tmp_path / "both")
    assert moved_parts(snapshot(mouth.model), both.model) == {"input_adapter"}
    assert moved_parts({"input_adapter": snapshot(ears.model)["input_adapter"]}, both.model) == set()
    assert [record.name for record in both.config.history] == ["stage-mouth", "stage-ears"]


def test_what_cannot_be_packed_is_told(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "new")
    with pytest.raises(TalkerError, match="no stage was trained"):
        pack(tmp_path / "new", tmp_path / "out")
    trained(tmp_path, "t", MOUTH)
    (tmp_path / "there").mkdir()
    with pytest.raises(TalkerError, match="is there already"):
        pack(tmp_path / "t", tmp_path / "there")
    with pytest.raises(TalkerError, match="isn't there or has another form"):
        pack(tmp_path / "t", tmp_path / "out", take={"speaker": tmp_path / "t"})
    tiny_talker(tmp_path / "other", "grid.pattern=parallel")
    with pytest.raises(TalkerError, match=r"no stage was trained|has another 'grid'"):
        pack(tmp_path / "t", tmp_path / "out", take={"heads": tmp_path / "other"})
    config = load_talker(tmp_path / "t").config
    assert config.weights is not None
    path = tmp_path / "t" / config.weights.file
    tensors = safetensors.torch.load_file(str(path))
    name = next(iter(tensors))
    tensors[name][..., 0] = 1e6
    safetensors.torch.save_file(tensors, str(path))
    with pytest.raises(TalkerError, match=f"'{name}' holds values that float16 can't hold"):
        pack(tmp_path / "t", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_the_command_tells_the_sizes(tmp_path: Path) -> None:
    trained(tmp_path, "t", MOUTH)
    done = CliRunner().invoke(build_app(), ["pack", str(tmp_path / "t"), "-o", str(tmp_path / "small")])
    assert done.exit_code == 0, done.output
    assert "packed in fp16" in done.output
    assert "output_adapter" in done.output
    done = CliRunner().invoke(build_app(), ["pack", str(tmp_path / "t"), "-o", str(tmp_path / "x"), "--take", "ears"])
    assert done.exit_code == 1
    assert "PART=TALKER" in done.output
