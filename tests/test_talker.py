"""The talker folder: what is saved, that it comes back bit for bit, and that a bad moment costs nothing."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from helpers import (
    NEW_PARTS,
    TINY_PARTS,
    greedy_text,
    model_folder,
    probe,
    same,
    stage,
    tiny_talker,
    train,
    training_rows,
)

from anytalk.errors import TalkerError
from anytalk.model import talker as talker_module
from anytalk.model.attach import attach
from anytalk.model.config import read_config
from anytalk.model.talker import Talker, load_talker, save_talker
from anytalk.plugins.fingerprint import fingerprint
from anytalk.plugins.hf.loading import quiet_transformers

EVERY_PART = [*NEW_PARTS, "encoder", "backbone", "speaker"]


def shifted(talker: Talker, part: str) -> Talker:
    """The same talker with one part moved, as training would."""
    with torch.no_grad():
        for parameter in talker.model.parts()[part].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return talker


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def encoded(talker: Talker) -> tuple[torch.Tensor, ...]:
    wave = torch.randn(1, 3200, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return (*probe(talker), talker.model.encode_speech(wave, torch.tensor([3200]))[0])


def test_a_fresh_talker_comes_back_bit_for_bit(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", "speakers=[a, b]")
    assert same(encoded(talker), encoded(load_talker(tmp_path / "t")))


@pytest.mark.parametrize(
    ("part", "heads"), [*((part, "parallel") for part in EVERY_PART), ("audio_embeddings", "shared")]
)
def test_each_trained_part_comes_back_bit_for_bit(part: str, heads: str, tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", "speakers=[a, b]", f"heads={{name: {heads}}}")
    fresh = encoded(talker)
    save_talker(shifted(talker, part), tmp_path / "t", trained={part})
    loaded = load_talker(tmp_path / "t")
    assert not same(encoded(loaded), fresh)
    assert same(encoded(loaded), encoded(talker))
    assert read_config(tmp_path / "t") == talker.config


def test_only_what_was_made_or_trained_is_saved(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    save_talker(talker, tmp_path / "t", trained={"heads"})
    assert files(tmp_path / "t") == ["README.md", "parts-0001.safetensors", "talker.yaml"]
    held = {key.split(".")[0] for key in safetensors.torch.load_file(tmp_path / "t" / "parts-0001.safetensors")}
    assert held == set(NEW_PARTS)
    save_talker(talker, tmp_path / "t", trained={"encoder", "backbone"})
    assert files(tmp_path / "t") == ["README.md", "backbone-0002", "parts-0002.safetensors", "talker.yaml"]
    held = {key.split(".")[0] for key in safetensors.torch.load_file(tmp_path / "t" / "parts-0002.safetensors")}
    assert held == {*NEW_PARTS, "encoder"}
    # What was trained once stays saved when another part is trained later on.
    save_talker(shifted(talker, "heads"), tmp_path / "t", trained={"heads"})
    assert files(tmp_path / "t") == ["README.md", "backbone-0002", "parts-0003.safetensors", "talker.yaml"]
    assert same(encoded(load_talker(tmp_path / "t")), encoded(talker))


def test_a_trained_talker_can_be_saved_elsewhere_whole(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    save_talker(shifted(shifted(talker, "backbone"), "encoder"), tmp_path / "t", trained={"backbone", "encoder"})
    loaded = load_talker(tmp_path / "t")
    save_talker(loaded, tmp_path / "copy")
    assert same(encoded(load_talker(tmp_path / "copy")), encoded(talker))
    assert same(encoded(load_talker(tmp_path / "t")), encoded(talker))


def test_a_trained_encoder_is_not_lost_by_a_talker_loaded_without_it(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    save_talker(shifted(talker, "encoder"), tmp_path / "t", trained={"encoder"})
    deaf = load_talker(tmp_path / "t", with_encoder=False)
    assert "encoder" not in deaf.model.parts()
    with pytest.raises(TalkerError, match="would lose it"):
        save_talker(deaf, tmp_path / "t", trained={"heads"})
    assert same(encoded(load_talker(tmp_path / "t")), encoded(talker))


def test_a_talker_loaded_without_ears_still_writes(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    assert same(probe(load_talker(tmp_path / "t", with_encoder=False)), probe(talker))


def test_a_trained_backbone_is_a_model_of_its_own(tmp_path: Path) -> None:
    talker = attach(str(model_folder(tmp_path / "model", "llama")), tmp_path / "t", assignments=TINY_PARTS)
    rows = training_rows(tmp_path, 2)
    train(talker, stage(train=["backbone"], tasks={"T1T2": 1.0}), rows)
    native = tmp_path / "t" / "backbone-0001"
    with quiet_transformers():
        lm = transformers.AutoModelForCausalLM.from_pretrained(native)
        tokenizer = transformers.AutoTokenizer.from_pretrained(native)
    ids = tokenizer("bees")["input_ids"]
    backbone = load_talker(tmp_path / "t").model.backbone
    with torch.no_grad():
        logits = backbone.text_logits(backbone(backbone.embed_text(torch.tensor([ids]))).normed)
        assert torch.equal(lm(input_ids=torch.tensor([ids])).logits, logits)
    assert greedy_text(backbone, ids, 4) == greedy_text(talker.model.backbone, ids, 4)
    (tmp_path / "t").rename(tmp_path / "moved")
    assert same(probe(load_talker(tmp_path / "moved")), probe(talker))


class Boom(BaseException):
    """As hard as a kill from inside the process can be."""


def breaks_at(monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    if place == "parts":
        monkeypatch.setattr(safetensors.torch, "save_file", broken)
    elif place == "digest":
        monkeypatch.setattr("hashlib.file_digest", broken)
    elif place == "card":
        monkeypatch.setattr(talker_module, "model_card", broken)
    else:
        monkeypatch.setattr(talker_module, "dump_config", broken)


@pytest.mark.parametrize("place", ["parts", "digest", "card", "config"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Boom()])
@pytest.mark.parametrize("trained_before", [False, True])
def test_a_save_that_breaks_leaves_the_old_talker(
    place: str, error: BaseException, trained_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = tiny_talker(tmp_path / "t")
    if trained_before:
        save_talker(shifted(talker, "backbone"), tmp_path / "t", trained={"backbone"})
    old, listing = probe(talker), files(tmp_path / "t")
    shifted(shifted(talker, "heads"), "backbone")
    breaks_at(monkeypatch, place, error)
    with pytest.raises((TalkerError, Boom)) as caught:
        save_talker(talker, tmp_path / "t", trained={"heads", "backbone"})
    assert caught.type is (Boom if isinstance(error, Boom) else TalkerError)
    monkeypatch.undo()
    assert files(tmp_path / "t") == listing
    assert same(probe(load_talker(tmp_path / "t")), old)
    save_talker(talker, tmp_path / "t", trained={"heads", "backbone"})
    assert same(probe(load_talker(tmp_path / "t")), probe(talker))


def test_an_interrupt_right_after_the_swap_keeps_the_new_talker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = tiny_talker(tmp_path / "t")
    write = talker_module.write_whole

    def late(path: Path, text: str) -> None:
        write(path, text)
        if path.name == "talker.yaml":
            raise KeyboardInterrupt

    monkeypatch.setattr(talker_module, "write_whole", late)
    with pytest.raises(KeyboardInterrupt):
        save_talker(shifted(talker, "heads"), tmp_path / "t", trained={"heads"})
    assert same(probe(load_talker(tmp_path / "t")), probe(talker))


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    (tmp_path / "file").write_text("x")
    with pytest.raises(TalkerError, match="can't be written"):
        save_talker(talker, tmp_path / "file" / "t", trained={"heads"})
    assert talker.folder == tmp_path / "t"


def test_damaged_weights_are_found_out(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    talker = tiny_talker(folder)
    save_talker(talker, folder, trained={"backbone"})
    path = folder / "parts-0001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(TalkerError, match=f"{len(whole) - 100} bytes instead of {len(whole)}"):
        load_talker(folder)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TalkerError, match="is damaged"):
        load_talker(folder)
    path.unlink()
    with pytest.raises(TalkerError, match="is missing"):
        load_talker(folder)
    path.write_bytes(whole)
    (folder / "backbone-0001").rename(tmp_path / "away")
    with pytest.raises(TalkerError, match=r"backbone-0001' is missing"):
        load_talker(folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("num_blocks: 1", "num_blocks: 2", "part 'output_adapter'"),
        ("name: parallel", "name: shared", "part 'heads'"),
    ],
)
def test_a_changed_configuration_is_found_out(old: str, new: str, words: str, tmp_path: Path) -> None:
    save_talker(tiny_talker(tmp_path / "t"), tmp_path / "t", trained={"heads"})
    path = tmp_path / "t" / "talker.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(TalkerError, match=words):
        load_talker(tmp_path / "t")


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", "llama")
    talker = attach(str(model), tmp_path / "t", assignments=TINY_PARTS)
    weights = safetensors.torch.load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    safetensors.torch.save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TalkerError, match="other weights") as caught:
        load_talker(tmp_path / "t")
    assert talker.config.base is not None
    assert talker.config.base.fingerprint in caught.value.message


def test_a_fingerprint_tells_models_apart() -> None:
    first, second = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    assert fingerprint(first) == fingerprint(first) != fingerprint(second)
    assert len(fingerprint(first)) == 16
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second)
