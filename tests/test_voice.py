"""Voices: packed from a trained talker, put on other backbones, found by name."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from helpers import same, stage, talker_text_logits, tiny_talker, train, training_rows
from test_pack import files
from test_routes import OtherTokens, read_aloud
from test_snac import SMALL, write_folder
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.errors import AnytalkError, ConfigError, PluginError, TalkerError, UnknownNameError
from anytalk.model.attach import attach
from anytalk.model.config import AudioGrid, read_config
from anytalk.model.pack import pack, pack_voice
from anytalk.model.talker import Talker, load_talker, save_talker
from anytalk.model.voice import VOICE_PARTS, find_voice, read_voice
from anytalk.model.voice_parts import voice_tensors, write_voice
from anytalk.plugins import Component, PartRef, hookimpl
from anytalk.plugins.components import BuildContext
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import Registry, default_registry
from anytalk_backbones.tiny import TinyBackbone

DECODER = "{name: talker, options: {width: 64, letter_width: 64, num_layers: 2, num_letter_layers: 1}}"
MOUTH = [f"output_adapter={DECODER}", "grid.text_lead=2", "speakers=[anna, bob]"]
TEXT = "it is seven."
VOICE: Path | None = None
"""What the test's plugin offers as the voice `hum`."""


class OtherBackbone(TinyBackbone):
    """A tiny backbone with other numbers for the same letters."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.tokenizer = OtherTokens(self.tokenizer)  # type: ignore[assignment]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained talker with a speech decoder; tests only read it."""
    folder = tmp_path_factory.mktemp("voice")
    made = attach("tiny", folder / "t", assignments=["encoder=null", "codec={name: tiny}", *MOUTH])
    train(
        made,
        stage(train=["output_adapter", "heads", "audio_embeddings"], tasks={"T1A1": 1.0}),
        training_rows(folder, 2),
    )
    with torch.no_grad():  # so short a training hardly reads the letters
        for block in made.model.output_adapter.speech_blocks:  # type: ignore[union-attr]
            block.letter_out.weight.normal_()
        made.model.heads.linear.weight.normal_(std=2.0)  # type: ignore[union-attr,operator]
    save_talker(made, folder / "t", {"output_adapter", "heads"})
    (folder / "t" / "NOTICE.txt").write_text("Hummed by Anna.")
    return folder / "t"


@pytest.fixture(scope="module")
def voice(talker: Path) -> Path:
    """Its voice; tests only read it."""
    folder = talker.parent / "hum"
    pack_voice(talker, folder, settings=["language=en", "licence=CC0-1.0"], precision="fp32")
    return folder


@pytest.fixture
def registry(voice: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """What is installed, and a package with a voice and a backbone."""
    monkeypatch.setattr(sys.modules[__name__], "VOICE", voice)
    plugin = SimpleNamespace(
        register_voices=hookimpl(lambda: [Component("hum", f"{__name__}:VOICE", "somebody who hums")]),
        register_backbones=hookimpl(lambda: [Component("other", f"{__name__}:OtherBackbone", "other tokens")]),
    )
    default_registry.cache_clear()
    default_registry().plugins.register(plugin, "hums", "anytalk-hums", "1.2")
    yield default_registry()
    default_registry.cache_clear()


def put_on(model: str, folder: Path, voice: object, *assignments: str) -> Talker:
    return attach(model, folder, voice=str(voice), assignments=["encoder=null", *assignments])


def edited(folder: Path, **changes: Any) -> Path:
    path = folder / "voice.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    return folder


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(build_app(), [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def test_a_voice_speaks_the_same_on_another_backbone(talker: Path, registry: Registry, tmp_path: Path) -> None:
    """Of another width, with another tokenizer for the same letters."""
    source = load_talker(talker)
    wanted = read_aloud(source, TEXT)
    assert len({tuple(stream) for stream in wanted}) == len(wanted) == 3
    new = put_on("other", tmp_path / "new", "hum", "backbone.options.width=48")
    assert new.model.backbone.width == 48
    assert new.model.backbone.tokenizer.encode(TEXT) != source.model.backbone.tokenizer.encode(TEXT)
    assert read_aloud(new, TEXT) == wanted
    again = load_talker(tmp_path / "new")
    assert read_aloud(again, TEXT) == wanted
    assert read_aloud(again, "it was nine.") != wanted
    config = again.config
    assert config.grid.audio_special_slots == source.config.grid.audio_special_slots
    assert (config.grid.text_lead, config.speakers) == (2, ["anna", "bob"])
    assert config.voice == read_voice(talker.parent / "hum").voice.info
    assert config.voice.licence == "CC0-1.0"
    assert (tmp_path / "new" / "NOTICE.txt").read_text() == "Hummed by Anna."
    assert "the voice came whole" in (tmp_path / "new" / "README.md").read_text()


def test_text_stays_that_of_the_base_model(registry: Registry, tmp_path: Path) -> None:
    new = put_on("other", tmp_path / "new", "hum", "backbone.options.width=48")
    options = {"width": 48}
    base = registry.build("backbone", PartRef(name="other", options=options), BuildContext())
    ids = torch.tensor([base.tokenizer.encode("What is the capital of France?")])
    with torch.no_grad():
        wanted = base.text_logits(base(base.embed_text(ids)).normed)
    assert same((talker_text_logits(new, ids[0].tolist()),), (wanted,))


def test_a_talker_with_a_voice_can_be_trained_and_packed(voice: Path, tmp_path: Path) -> None:
    new = put_on("tiny", tmp_path / "new", voice)
    learning = stage(train=["heads"], tasks={"T1A2": 1.0})
    train(new, learning, training_rows(tmp_path, 2))
    pack(tmp_path / "new", tmp_path / "small")
    assert "NOTICE.txt" in files(tmp_path / "small")
    assert read_config(tmp_path / "small").voice == read_voice(voice).voice.info
    # A voice that was trained further is a voice again, under its old licence.
    pack_voice(tmp_path / "small", tmp_path / "hum2")
    assert (read_voice(tmp_path / "hum2").voice.name, read_voice(tmp_path / "hum2").voice.licence) == (
        "hum2",
        "CC0-1.0",
    )


def test_packing_a_voice_rounds_and_leaves_the_backbone_out(talker: Path, tmp_path: Path) -> None:
    parts = pack_voice(talker, tmp_path / "small")
    assert [part.name for part in parts] == sorted(VOICE_PARTS)
    assert files(tmp_path / "small") == ["NOTICE.txt", "README.md", "voice.safetensors", "voice.yaml"]
    found = read_voice(tmp_path / "small").voice
    model = load_talker(talker).model
    special = model.special_tokens.audio.numel()
    assert {part.name: part.parameters for part in parts}["special_tokens"] == special
    assert found.output_adapter.options["audio_dropout"] == 0.0  # every option, as it was built
    assert found.name == "small"
    assert "| codec | `tiny`, 3 streams of 16 codes |" in (tmp_path / "small" / "README.md").read_text()
    new = put_on("tiny", tmp_path / "new", tmp_path / "small", "backbone.options.width=48")
    wanted = model.heads.linear.weight.half().float()  # type: ignore[union-attr,operator]
    assert torch.equal(new.model.heads.linear.weight, wanted)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("is_inside", [True, False])
def test_codec_weights_of_a_voice_come_along(is_inside: bool, tmp_path: Path) -> None:
    """Those that lie in the talker folder, and those of elsewhere on this machine."""
    (tmp_path / "codec").mkdir()
    write_folder(tmp_path / "codec" / "own", SMALL, "model.safetensors")
    codec = f"codec={{name: snac, options: {{model: {tmp_path / 'codec' / 'own'}}}}}"
    made = attach("tiny", tmp_path / "t", assignments=["encoder=null", codec, *MOUTH])
    train(made, stage(train=["output_adapter"], tasks={"T1A1": 1.0}), training_rows(tmp_path, 2))
    if is_inside:
        shutil.move(tmp_path / "codec", tmp_path / "t" / "codec")
        made.config = made.config.replace(codec={"name": "snac", "options": {"model": "codec/own"}})
        save_talker(made, tmp_path / "t", {"heads"})
    wanted = made.codec.decode(torch.zeros(1, made.codec.num_streams, 3, dtype=torch.long))
    pack_voice(tmp_path / "t", tmp_path / "hum")
    shutil.rmtree(tmp_path / "t")
    shutil.rmtree(tmp_path / "codec", ignore_errors=True)
    assert read_voice(tmp_path / "hum").voice.codec.options["model"] == "codec/own"
    put_on("tiny", tmp_path / "new", tmp_path / "hum")
    shutil.rmtree(tmp_path / "hum")
    assert "codec/own/config.json" in files(tmp_path / "new")
    codec_of_new = load_talker(tmp_path / "new").codec
    assert torch.equal(codec_of_new.decode(torch.zeros(1, codec_of_new.num_streams, 3, dtype=torch.long)), wanted)


def test_a_mouth_that_was_trained_elsewhere_can_be_a_voice(tmp_path: Path) -> None:
    """Its heads read with the audio tables, so they have no tensors."""
    settings = ["encoder=null", "codec={name: tiny}", f"output_adapter={DECODER}", "heads={name: shared}"]
    source = attach("tiny", tmp_path / "t", assignments=settings)
    known = source.config.model_dump(include={"output_adapter", "heads", "codec", "codec_fingerprint"})
    grid = source.config.grid.model_dump(include=set(AudioGrid.model_fields))
    tensors = voice_tensors(source.model)
    assert {name.partition(".")[0] for name in tensors} == {"output_adapter", "audio_embeddings", "special_tokens"}
    write_voice(tmp_path / "hum", {**known, "name": "hum", "grid": grid}, tensors)
    new = put_on("tiny", tmp_path / "new", tmp_path / "hum", "backbone.options.width=48", "seed=1")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in voice_tensors(new.model).items())
    with pytest.raises(ConfigError, match="codec_fingerprint"):
        write_voice(tmp_path / "x", {"name": "hum", "grid": grid}, tensors)
    assert not (tmp_path / "x").exists()


def test_ears_are_put_beside_it_where_they_can_be_built(
    voice: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hum = edited(
        shutil.copytree(voice, tmp_path / "hum"), ears={"name": "transcript", "options": {"model": "random:toy"}}
    )
    hears = attach("tiny", tmp_path / "hears", voice=str(hum))
    assert hears.config.ears is not None
    assert (hears.config.ears.name, hears.config.encoder, hears.config.input_adapter) == ("transcript", None, None)
    choices = [{"model": "package:absent/model"}, {"model": "random:toy"}]
    monkeypatch.setattr(default_registry().load("ears", "transcript"), "usual_options", lambda: choices)
    usual = attach("tiny", tmp_path / "usual", voice=str(voice))
    assert usual.config.ears is not None
    assert usual.config.ears.options["model"] == "random:toy"
    own = attach("tiny", tmp_path / "own", voice=str(hum), assignments=["encoder={name: tiny}"])
    assert (own.config.ears, own.config.encoder is None) == (None, False)
    del choices[1]
    deaf = attach("tiny", tmp_path / "deaf", voice=str(voice))
    assert not deaf.config.hears
    assert "the talker gets no ears, only typed questions: 'package:absent/model' needs" in caplog.text
    assert "pip install" in caplog.text


def test_voices_by_name_and_by_folder(
    voice: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_voice("hum", registry).folder == voice
    assert find_voice(str(voice), registry).voice.name == "hum"
    with pytest.raises(UnknownNameError, match="unknown voice 'hmu'; did you mean 'hum'") as caught:
        find_voice("hmu", registry)
    assert "installed: hum" in caught.value.hint
    with pytest.raises(TalkerError, match=r"voice folder '.*' has no voice.yaml"):
        find_voice(str(tmp_path), registry)
    with pytest.raises(TalkerError, match="doesn't exist"):
        find_voice("./hum", registry)
    shutil.copytree(voice, tmp_path / "hums_package" / "voice")
    (tmp_path / "hums_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_voice("package:hums_package/voice", registry).folder == tmp_path / "hums_package" / "voice"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hum").mkdir()  # a folder without a voice hides no name
    assert find_voice("hum", registry).folder == voice
    monkeypatch.setattr(sys.modules[__name__], "VOICE", tmp_path / "gone")
    with pytest.raises(PluginError, match="voice 'hum' of plugin 'hums' can't be read"):
        find_voice("hum", registry)
    monkeypatch.setattr(sys.modules[__name__], "VOICE", 3)
    with pytest.raises(PluginError, match="points at 3, which isn't the path"):
        find_voice("hum", registry)
    with pytest.raises(UnknownNameError, match="no voice is installed") as caught:
        find_voice("heart", Registry(build_plugins(third_party=False)))
    assert "anytalk-heart" in caught.value.hint


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f: (f / "voice.safetensors").write_bytes(b"short"), "has 5 bytes instead of"),
        (lambda f: (f / "voice.safetensors").unlink(), "is missing; voice.yaml names it"),
        (lambda f: edited(f, format_version=2), "was written by a newer anytalk"),
        (lambda f: edited(f, colour="blue"), "colour"),
        (lambda f: edited(f, codec={"name": "tiny", "options": {"seed": 1}}), "makes other codes"),
        (lambda f: edited(f, codec={"name": "gone", "options": {}}), "unknown codec 'gone'"),
        (lambda f: edited(f, speakers=["anna"]), "part 'speaker' in .* has other tensors than voice.yaml describes"),
        (lambda f: (f / "voice.yaml").write_text("- a list"), "not a mapping"),
    ],
)
def test_a_damaged_voice_is_refused(harm: Any, says: str, voice: Path, tmp_path: Path) -> None:
    hum = shutil.copytree(voice, tmp_path / "hum")
    harm(hum)
    with pytest.raises(AnytalkError, match=says):
        put_on("tiny", tmp_path / "new", hum)
    assert [p.name for p in tmp_path.iterdir()] == ["hum"]


@pytest.mark.parametrize("setting", ["codec={name: tiny}", "grid.text_lead=0", "grid={prompt: raw}", "speakers=[]"])
def test_what_a_voice_brings_cannot_be_set(setting: str, voice: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the voice brings its own"):
        put_on("tiny", tmp_path / "new", voice, setting)
    assert put_on("tiny", tmp_path / "raw", voice, "grid.prompt=raw").config.grid.prompt == "raw"


def test_what_is_no_voice_is_told(talker: Path, tmp_path: Path) -> None:
    def attached(name: str, *assignments: str) -> Path:
        attach("tiny", tmp_path / name, assignments=["encoder=null", "codec={name: tiny}", *assignments])
        return tmp_path / name

    tiny_talker(tmp_path / "blocks")
    with pytest.raises(TalkerError, match=r"the output adapter of .* \(blocks\) needs its backbone"):
        pack_voice(tmp_path / "blocks", tmp_path / "out")
    with pytest.raises(TalkerError, match="needs its backbone"):
        pack_voice(attached("reads", *MOUTH, "output_adapter.options.reads_states=true"), tmp_path / "out")
    with pytest.raises(TalkerError, match="by the mean"):
        pack_voice(attached("mean", *MOUTH, "grid.merge=mean"), tmp_path / "out")
    with pytest.raises(TalkerError, match="is untrained"):
        pack_voice(attached("new", *MOUTH), tmp_path / "out")
    with pytest.raises(ConfigError, match="colour"):
        pack_voice(talker, tmp_path / "out", settings=["colour=blue"])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letters.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(TalkerError, match="already exists"):
            pack_voice(talker, tmp_path / "taken", overwrite=overwrite)
    assert not (tmp_path / "out").exists()


def test_commands(talker: Path, voice: Path, registry: Registry, tmp_path: Path) -> None:
    packed = run("pack", talker, "--voice-only", "-o", tmp_path / "v", "--name", "eve", "--set", "language=de")
    assert "packed in fp16" in " ".join(packed.split())  # a long path wraps the line
    assert (read_voice(tmp_path / "v").voice.name, read_voice(tmp_path / "v").voice.language) == ("eve", "de")
    run("pack", talker, "--voice-only", "-o", tmp_path / "v", "--overwrite")
    assert "--voice-only" in run("pack", talker, "-o", tmp_path / "x", "--name", "eve", code=1)
    assert "--take" in run("pack", talker, "-o", tmp_path / "x", "--voice-only", "--take", f"heads={talker}", code=1)
    said = run("voices")
    for words in ("hum", "en", "anna, bob", "CC0-1.0", "anytalk-hums 1.2", "kB"):
        assert words in said
    (listed,) = json.loads(run("voices", "--json"))
    assert (listed["name"], listed["folder"]) == ("hum", str(voice))
    assert "somebody who hums" in run("plugins")
    assert str(voice) in run("plugins", "hum").replace("\n", "")
    said = run("attach", "tiny", "-o", tmp_path / "t", "--voice", "hum", "--encoder", "none")
    assert "of the voice hum" in said
    assert "-o answer.wav" in said
    assert "the voice brings its own" in run(
        "attach", "tiny", "-o", tmp_path / "x", "--voice", "hum", "--codec", "tiny", code=1
    )
    assert "did you mean 'hum'" in run("attach", "tiny", "-o", tmp_path / "x", "--voice", "hmu", code=1)
    told = json.loads(run("info", tmp_path / "t", "--json"))
    assert told["voice"]["name"] == "hum"
    assert told["codec_fingerprint"] == read_config(tmp_path / "t").codec_fingerprint
    assert told["backbone_folder"] is None
    assert (told["parts"]["heads"]["state"], told["parts"]["heads"]["licence"]) == ("voice hum", "CC0-1.0")
    said = run("info", tmp_path / "t")
    assert "hum (CC0-1.0, fingerprint" in said
    run("talk", tmp_path / "t", "--text", "Hello!", "-o", tmp_path / "a.wav", "--max-columns", "20")
    assert (tmp_path / "a.wav").stat().st_size > 44


def test_without_voices_the_list_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTALK_NO_PLUGINS", "1")
    default_registry.cache_clear()
    assert "anytalk-heart" in run("voices")
    default_registry.cache_clear()
