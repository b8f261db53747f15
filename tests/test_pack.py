"""Packed talkers: small, whole, and the same talker up to rounding."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import moved_parts, probe, same, snapshot, stage, tiny_talker, train, training_rows
from test_snac import SMALL, write_folder
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.runner import columns_of
from anytalk.errors import TalkerError
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import TASKS
from anytalk.model import pack as pack_module
from anytalk.model.attach import attach
from anytalk.model.config import CONFIG_FILE, TalkerConfig, WeightsFile, dump_config, read_config
from anytalk.model.pack import pack
from anytalk.model.talker import Talker, load_talker, save_talker

MOUTH = ["output_adapter", "heads", "audio_embeddings", "special_tokens"]


def trained(folder: Path, name: str, parts: list[str]) -> Talker:
    talker = tiny_talker(folder / name)
    rows = training_rows(folder, 2)
    train(talker, stage(name=f"stage-{name}", train=parts), rows)
    return talker


@pytest.fixture(scope="module")
def mouth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A talker with a trained mouth; tests only read it."""
    folder = tmp_path_factory.mktemp("pack")
    trained(folder, "t", MOUTH)
    return folder / "t"


def weights_of(folder: Path) -> WeightsFile:
    weights = read_config(folder).weights
    assert weights is not None
    return weights


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def reference(folder: Path) -> Talker:
    """The talker with the tensors of its parts file rounded to half precision, in memory."""
    talker = load_talker(folder)
    for name in weights_of(folder).parts:
        part = talker.model.parts()[name]
        part.load_state_dict({key: t.half().float() for key, t in part.state_dict().items()})
    return talker


@torch.no_grad()
def answer(talker: Talker) -> tuple[list[int], np.ndarray]:
    """Greedy text ids and codec codes of a spoken answer."""
    prompt = talker.prompts.prompt(TASKS["T1A2"], [Turn("user", "Hello")])
    pattern, options = talker.config.grid.delay_pattern(), DecodeOptions(max_columns=24, batch_parallel=False)
    generation = Generation(talker.model, pattern, options, [prompt], [], audio_out=True)
    list(columns_of(generation))
    return generation.answer.text_ids, generation.answer.codes()


def change(folder: Path, name: str, value: float) -> None:
    """Put a number into a tensor of the parts file, as training could have; ``talker.yaml`` follows."""
    config, weights = read_config(folder), weights_of(folder)
    path = folder / weights.file
    tensors = safetensors.torch.load_file(str(path))
    tensors[name].view(-1)[0] = value
    safetensors.torch.save_file(tensors, str(path))
    found = {"num_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    rewrite(folder, config.replace(weights={**weights.model_dump(), **found}))


def rewrite(folder: Path, config: TalkerConfig) -> None:
    (folder / "talker.yaml").write_text(dump_config(config))


def test_a_packed_talker_is_the_talker_rounded(mouth: Path, tmp_path: Path) -> None:
    source = shutil.copytree(mouth, tmp_path / "t")
    (source / "history" / "next.checkpoint").mkdir()
    (source / "history" / "next.checkpoint" / "state.json").write_text("{}")
    (source / "history" / ".next.checkpoint.partial").mkdir()
    (source / ".parts-0002.safetensors.partial").write_text("half")
    listing = files(source)
    parts = pack(source, tmp_path / "small")
    assert files(source) == listing
    packed, old = load_talker(tmp_path / "small"), load_talker(source)
    assert packed.config.replace(weights=None) == old.config.replace(weights=None)
    assert files(tmp_path / "small") == [
        "README.md", "history/stage-t.jsonl", "history/stage-t.png", "parts-0001.safetensors", "talker.yaml"
    ]  # fmt: skip
    assert 0.4 < weights_of(tmp_path / "small").num_bytes / weights_of(source).num_bytes < 0.6
    assert weights_of(tmp_path / "small").parts == weights_of(source).parts == [part.name for part in parts]
    assert "# small" in (tmp_path / "small" / "README.md").read_text()
    expected = reference(source)
    assert moved_parts(snapshot(expected.model), packed.model) == set()
    assert {p.dtype for p in packed.model.parameters()} == {torch.float32}
    assert same(probe(packed), probe(expected))
    assert not same(probe(packed), probe(old))
    (text, codes), (wanted_text, wanted_codes) = answer(packed), answer(expected)
    assert text == wanted_text
    assert codes.size
    assert np.array_equal(codes, wanted_codes)


def test_the_figures_of_a_part_are_those_of_its_tensors(mouth: Path, tmp_path: Path) -> None:
    part = next(p for p in pack(mouth, tmp_path / "small") if p.name == "heads")
    numbers = torch.cat([t.flatten() for t in load_talker(mouth).model.heads.state_dict().values()])
    assert (part.parameters, part.num_bytes) == (numbers.numel(), 2 * numbers.numel())
    change_of_it = (numbers.half().float() - numbers).abs().max() / numbers.square().mean().sqrt()
    assert part.rounding == pytest.approx(float(change_of_it), rel=1e-4)
    assert 0 < part.rounding < 0.01


def test_packing_is_once_and_the_packed_can_be_trained(mouth: Path, tmp_path: Path) -> None:
    pack(mouth, tmp_path / "small")
    parts = pack(tmp_path / "small", tmp_path / "again")
    assert {part.rounding for part in parts} == {0.0}
    assert weights_of(tmp_path / "again") == weights_of(tmp_path / "small")
    whole = pack(mouth, tmp_path / "whole", precision="fp32")
    assert {part.rounding for part in whole} == {0.0}
    assert moved_parts(snapshot(load_talker(mouth).model), load_talker(tmp_path / "whole").model) == set()
    packed = load_talker(tmp_path / "small")
    before = snapshot(packed.model)
    train(packed, stage(name="more", train=["heads"]), training_rows(tmp_path, 2))
    assert weights_of(tmp_path / "small").file == "parts-0002.safetensors"
    assert moved_parts(before, load_talker(tmp_path / "small").model) == {"heads"}


def test_a_trained_backbone_is_copied_as_it_is(mouth: Path, tmp_path: Path) -> None:
    talker = load_talker(shutil.copytree(mouth, tmp_path / "t"))
    with torch.no_grad():
        next(talker.model.backbone.parameters()).mul_(1.5)
    config = save_talker(talker, tmp_path / "t", trained={"backbone"})
    own = str(config.backbone_folder)
    pack(tmp_path / "t", tmp_path / "small")
    assert files(tmp_path / "small" / own) == files(tmp_path / "t" / own)
    packed = load_talker(tmp_path / "small")
    assert "backbone" not in moved_parts(snapshot(talker.model), packed.model)
    with pytest.raises(TalkerError, match="was trained, so parts of"):
        pack(tmp_path / "t", tmp_path / "x", take={"heads": mouth})
    shutil.rmtree(tmp_path / "t" / own)
    with pytest.raises(TalkerError, match=f"{own}' is missing"):
        pack(tmp_path / "t", tmp_path / "x")


def test_codec_weights_inside_the_folder_come_along(tmp_path: Path) -> None:
    write_folder(tmp_path / "own", SMALL, "model.safetensors")
    settings = ["encoder={name: tiny}", "backbone.options={}", "output_adapter.options.num_blocks=1"]
    codec = f"codec={{name: snac, options: {{model: {tmp_path / 'own'}}}}}"
    talker = attach("tiny", tmp_path / "t", backbone="tiny", assignments=[*settings, codec])
    save_talker(talker, tmp_path / "t", trained={"heads"})
    codec_before = talker.codec
    (tmp_path / "t" / "codec").mkdir()
    shutil.move(tmp_path / "own", tmp_path / "t" / "codec")
    config = read_config(tmp_path / "t")
    inside = {"name": "snac", "options": {"model": "codec/own"}}
    rewrite(tmp_path / "t", config.replace(codec=inside))
    pack(tmp_path / "t", tmp_path / "small")
    shutil.move(tmp_path / "t", tmp_path / "away")
    assert "codec/own/config.json" in files(tmp_path / "small")
    codes = torch.zeros(1, codec_before.num_streams, 3, dtype=torch.long)
    assert torch.equal(load_talker(tmp_path / "small").codec.decode(codes), codec_before.decode(codes))
    outside = {"name": "snac", "options": {"model": "../small/codec/own"}}
    rewrite(tmp_path / "away", config.replace(codec=outside))
    with pytest.raises(TalkerError, match="is outside"):
        pack(tmp_path / "away", tmp_path / "x")


def test_parts_trained_side_by_side_come_together(mouth: Path, tmp_path: Path) -> None:
    ears = trained(tmp_path, "ears", ["input_adapter"])
    pack(mouth, tmp_path / "both", precision="fp32", take={"input_adapter": tmp_path / "ears"})
    both = load_talker(tmp_path / "both")
    assert moved_parts(snapshot(load_talker(mouth).model), both.model) == {"input_adapter"}
    assert moved_parts({"input_adapter": snapshot(ears.model)["input_adapter"]}, both.model) == set()
    assert [record.name for record in both.config.history] == ["stage-t", "stage-ears"]


def test_a_place_that_is_taken_is_kept(mouth: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(TalkerError, match="already exists"):
        pack(mouth, tmp_path / "there")
    (tmp_path / "there" / "letters.txt").write_text("dear")
    with pytest.raises(TalkerError, match="already exists"):
        pack(mouth, tmp_path / "there", overwrite=True)
    assert files(tmp_path / "there") == ["letters.txt"]
    for place in (mouth, mouth / "small", mouth.parent):
        with pytest.raises(TalkerError, match="inside one another"):
            pack(mouth, place, overwrite=True)
    tiny_talker(tmp_path / "old")
    with pytest.raises(TalkerError, match="already exists"):
        pack(mouth, tmp_path / "old")
    assert read_config(tmp_path / "old").weights is None
    pack(mouth, tmp_path / "old", overwrite=True)
    assert weights_of(tmp_path / "old").file == "parts-0001.safetensors"
    assert names_in(tmp_path) == ["old", "there"]


def test_what_cannot_be_packed_is_told(mouth: Path, tmp_path: Path) -> None:
    with pytest.raises(TalkerError, match="doesn't exist"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    tiny_talker(tmp_path / "new")
    with pytest.raises(TalkerError, match="no stage was trained"):
        pack(tmp_path / "new", tmp_path / "out")
    with pytest.raises(TalkerError, match="is missing or has other tensors"):
        pack(mouth, tmp_path / "out", take={"speaker": mouth})
    tiny_talker(tmp_path / "other", "grid.pattern=parallel")
    with pytest.raises(TalkerError, match=r"has a different 'grid'"):
        pack(mouth, tmp_path / "out", take={"heads": tmp_path / "other"})
    codes = shutil.copytree(mouth, tmp_path / "codes")
    config = read_config(codes)
    (codes / CONFIG_FILE).write_text(dump_config(config.replace(codec_fingerprint="0" * 16)), encoding="utf-8")
    with pytest.raises(TalkerError, match=r"has a different 'codec_fingerprint'"):
        pack(mouth, tmp_path / "out", take={"heads": codes})
    source = shutil.copytree(mouth, tmp_path / "t")
    path = source / weights_of(source).file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TalkerError, match="is damaged"):
        pack(source, tmp_path / "out")
    assert names_in(tmp_path) == ["codes", "new", "other", "t"]


def test_numbers_beyond_half_precision_name_their_tensor(mouth: Path, tmp_path: Path) -> None:
    source = shutil.copytree(mouth, tmp_path / "t")
    name = next(iter(safetensors.torch.load_file(str(source / weights_of(source).file))))
    change(source, name, -1e6)
    with pytest.raises(TalkerError, match=f"'{name}' holds values that float16 can't hold: up to 1e\\+06") as caught:
        pack(source, tmp_path / "out")
    assert "--precision fp32" in caught.value.hint
    assert {part.rounding for part in pack(source, tmp_path / "fp32", precision="fp32")} == {0.0}
    for number in (float("nan"), float("inf")):
        change(source, name, number)
        for precision in ("fp16", "fp32"):
            with pytest.raises(TalkerError, match=f"'{name}' holds values that are not finite"):
                pack(source, tmp_path / "out", precision=precision)
    assert names_in(tmp_path) == ["fp32", "t"]


@pytest.mark.parametrize("place", ["history", "parts", "card", "config"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_pack_that_breaks_leaves_what_was_there(
    place: str, error: BaseException, mouth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    pack(mouth, tmp_path / "small")
    before = files(tmp_path / "small")
    names = {"parts": "write_parts", "card": "model_card", "config": "dump_config"}
    if place == "history":
        copytree = shutil.copytree
        monkeypatch.setattr(shutil, "copytree", lambda *a, **k: copytree(*a, copy_function=broken, **k))
    else:
        monkeypatch.setattr(pack_module, names[place], broken)
    for out in ("small", "fresh"):
        with pytest.raises((TalkerError, KeyboardInterrupt)) as caught:
            pack(mouth, tmp_path / out, overwrite=True)
        if isinstance(error, OSError):
            assert "No space left on device" in str(caught.value)
            assert "[(" not in str(caught.value)
    monkeypatch.undo()
    assert names_in(tmp_path) == ["small"]
    assert files(tmp_path / "small") == before
    load_talker(tmp_path / "small")


def test_the_command_tells_the_sizes(mouth: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        done = CliRunner().invoke(build_app(), ["pack", *(str(a) for a in arguments)])
        assert "Traceback" not in done.output
        return done

    done = run(mouth, "-o", tmp_path / "small")
    assert done.exit_code == 0, done.output
    for words in ("packed in fp16", "output_adapter", "all", "largest rounding / RMS", "the whole folder"):
        assert words in done.output
    done = run(mouth, "-o", tmp_path / "x", "--take", "ears")
    assert done.exit_code == 1
    assert "PART=TALKER" in done.output
    done = run(mouth, "-o", tmp_path / "small")
    assert done.exit_code == 1
    assert "--overwrite" in done.output
    assert run(mouth, "-o", tmp_path / "small", "--precision", "fp32", "--overwrite").exit_code == 0
    assert run(mouth, "-o", tmp_path / "y", "--precision", "fp8").exit_code == 2
