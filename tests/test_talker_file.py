"""``talker.yaml``: everything as it was built, pinned, and version 1 read as it was meant."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY, probe, same, stage, tiny_talker, train, training_rows

from anytalk.decode.session import AnswerDone, AudioDelta, Session
from anytalk.errors import ConfigError
from anytalk.model.attach import attach
from anytalk.model.config import PART_KINDS, read_config
from anytalk.model.parent import load_parent
from anytalk.model.talker import Talker, load_talker, pinned, save_talker
from anytalk.model.version1 import from_version_1
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import Registry, default_registry
from anytalk_adapters.tiny_codec import TinyCodec

EXAMPLES = Path(__file__).parent.parent / "examples"
BEAM = {"beam": 4, "hearings": 2, "weight": 0.5, "context": "so: "}
VERSION_1 = {
    "format_version": 1,
    "library_version": "0.1.0",
    "backbone": {"name": "tiny", "options": {}},
    "encoder": {"name": "tiny"},
    "encoder_width": 16,
    "input_adapter": {
        "name": "ctc",
        "options": {"width": 16, "num_blocks": 1, "beam": 4, "hearings": 2, "fusion": 0.5, "fusion_context": "so: "},
    },
    "output_adapter": {"name": "blocks", "options": {"num_blocks": 1}},
    "heads": {"name": "parallel", "options": {}},
    "codec": {"name": "tiny"},
    "grid": {"prompt": "chat", "asr": "examples", "codec_streams": 3, "codebook_size": 16},
    "speakers": [],
    "arithmetic": "exact",
    "seed": 0,
}
"""A file as version 1 wrote it: only the options that somebody typed, and the search as a part of the ears."""


@pytest.fixture
def parrots(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """What is installed, and the backbone that the tutorial builds."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "anytalk-parrot"))
    import anytalk_parrot

    monkeypatch.delitem(sys.modules, "anytalk_parrot")
    monkeypatch.setitem(sys.modules, "anytalk_parrot", anytalk_parrot)
    plugins = build_plugins()
    plugins.register(anytalk_parrot, "parrot")
    return Registry(plugins)


def answer(talker: Talker) -> tuple[str, np.ndarray]:
    pieces, text = [], ""
    for event in Session(talker).ask(text="What is the capital of France?"):
        if isinstance(event, AudioDelta):
            pieces.append(event.wave)
        elif isinstance(event, AnswerDone):
            text = event.text
    return text, np.concatenate(pieces)


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "talker.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_every_option_is_written_as_it_was_built(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t")
    data = yaml.safe_load((tmp_path / "t" / "talker.yaml").read_text())
    assert data["format_version"] == 2
    assert data["hearing"] is None
    for field, kind in PART_KINDS.items():
        if data[field] is None:
            continue
        options = default_registry().load(kind, data[field]["name"]).Options
        assert set(data[field]["options"]) == set(options.model_fields), field


def test_a_default_that_moves_changes_no_talker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = probe(tiny_talker(tmp_path / "t"))
    save_talker(load_talker(tmp_path / "t"), tmp_path / "t", trained={"heads"})

    class Moved(TinyCodec.Options):
        seed: int = 7

    monkeypatch.setattr(TinyCodec, "Options", Moved)
    talker = load_talker(tmp_path / "t")
    assert same(probe(talker), before)
    assert talker.codec.fingerprint == talker.config.codec_fingerprint
    assert tiny_talker(tmp_path / "new").codec.fingerprint != talker.codec.fingerprint


def test_a_codec_with_other_codes_is_refused(tmp_path: Path) -> None:
    config = tiny_talker(tmp_path / "t").config
    edited(tmp_path / "t", codec={"name": "tiny", "options": {**config.codec.options, "seed": 1}})
    with pytest.raises(ConfigError, match="makes other codes") as caught:
        _ = load_talker(tmp_path / "t").codec
    assert str(config.codec_fingerprint) in caught.value.message
    assert "attached with" in caught.value.hint


def test_version_1_is_the_same_talker(tmp_path: Path) -> None:
    settings = [
        "input_adapter={name: ctc, options: {width: 16, num_blocks: 1}}",
        f"hearing={{name: beam, options: {BEAM}}}",
    ]
    new = tiny_talker(tmp_path / "new", *settings)
    save_talker(new, tmp_path / "new", trained={"heads"})
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    written = yaml.safe_load((tmp_path / "new" / "talker.yaml").read_text())
    typed = VERSION_1 | {name: written[name] for name in ("base", "weights")}
    (tmp_path / "old" / "talker.yaml").write_text(yaml.safe_dump(typed))
    old = load_talker(tmp_path / "old")
    assert old.config.codec_fingerprint is None
    theirs = read_config(tmp_path / "new")
    mine = pinned(old.config, default_registry())
    assert mine.replace(codec_fingerprint=theirs.codec_fingerprint) == theirs
    assert old.model.hearing is not None
    state = new.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in old.model.state_dict().items())
    (text, wave), (new_text, new_wave) = answer(old), answer(new)
    assert text == new_text
    assert len(wave) > 0
    assert np.array_equal(wave, new_wave)
    # Whatever it is saved for, it is then pinned.
    save_talker(old, tmp_path / "old")
    assert read_config(tmp_path / "old") == theirs


def test_mistakes_of_version_1_are_left_for_validation() -> None:
    wrong = {"heads": None, "codec": 3, "grid": {}, "input_adapter": ["wrong"], "backbone": {"options": 3}}
    assert from_version_1(wrong) == {**wrong, "format_version": 2}


def test_the_decoder_of_version_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="as wide as its backbone") as caught:
        from_version_1({"output_adapter": {"name": "talker"}})
    assert "git checkout" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "base", "options"),
    [("llama", "org/model", {"model": "org/model", "revision": "v2"}), ("tiny", "tiny", {})],
)
def test_version_1_named_a_trained_backbone_by_its_model(name: str, base: str, options: dict[str, Any]) -> None:
    typed = {**options, "model": "backbone-0003"}
    data = from_version_1({"backbone": {"name": name, "options": typed}, "base": {"model": base}})
    assert data["backbone_folder"] == "backbone-0003"
    assert data["backbone"]["options"] == options


def test_a_backbone_without_an_option_model_is_trained_saved_and_loaded(tmp_path: Path, parrots: Registry) -> None:
    talker = attach("parrot", tmp_path / "t", assignments=TINY, registry=parrots)
    assert talker.config.backbone.options == {"width": 64, "num_blocks": 2, "seed": 0}
    before = probe(talker)
    train(talker, stage(train=["backbone"], tasks={"T1T2": 1.0}), training_rows(tmp_path, 2))
    again = load_talker(tmp_path / "t", registry=parrots)
    assert again.config.backbone_folder == "backbone-0001"
    assert same(probe(again), probe(talker))
    assert not same(probe(again), before)
    base = parrots.build("backbone", again.config.backbone).state_dict()
    parent = load_parent(again).state_dict()
    assert all(torch.equal(tensor, parent[name]) for name, tensor in base.items())


def test_a_backbone_that_takes_no_model_says_so(tmp_path: Path, parrots: Registry) -> None:
    with pytest.raises(ConfigError, match="takes no model") as caught:
        attach("org/model", tmp_path / "t", backbone="parrot", assignments=TINY, registry=parrots)
    assert "anytalk attach parrot" in caught.value.hint
