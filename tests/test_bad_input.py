"""Whatever a user does wrong is answered by one clear sentence, an exit status, and no traceback."""

import errno
import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from typer.testing import CliRunner

from anytalk.cli.app import _of_the_machine, build_app
from anytalk.errors import TalkerError
from anytalk.files import written_whole
from anytalk.model import talker as talker_module
from anytalk.model.attach import attach
from anytalk.model.config import StageRecord
from anytalk.model.talker import load_talker, save_talker
from anytalk.plugins.registry import default_registry

PARTS = ["encoder={name: tiny}", "codec={name: tiny}", "output_adapter.options.num_blocks=1"]
TINY = ["--encoder", "tiny", "--codec", "tiny", "--set", "output_adapter.options.num_blocks=1"]
RATE_HZ = 16_000


def run(*arguments: object) -> Any:
    return CliRunner().invoke(build_app(), [str(a) for a in arguments])


def refused(*arguments: object) -> str:
    """What a command that must fail says on standard error, in one line."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert "bug of anytalk" not in result.output
    said: str = result.stderr
    assert said.count("Error: ") == 1, said
    assert "Hint:  " in said
    return " ".join(said.split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A talker with a weights file."""
    folder = tmp_path_factory.mktemp("bad") / "talker"
    talker = attach("tiny", folder, assignments=PARTS)
    save_talker(talker, folder, trained={"heads"})
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def tone(duration_s: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    return np.asarray(0.3 * np.sin(np.arange(int(duration_s * rate_hz)) * 0.2))


# ---- models


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["./nothing"], "'./nothing' doesn't exist"),
        (["no such name!"], "'no such name!' doesn't exist"),
        (["package:no_such_package/model.gguf"], "needs the Python package 'no_such_package'"),
        (["nobody/nothing-at-all"], "nobody/nothing-at-all"),
        (["tiny", "--codec", "snack"], "unknown codec 'snack'; did you mean 'snac'?"),
        (["tiny", "--backbone", "qwen3"], "unknown backbone 'qwen3'; did you mean 'qwen2'?"),
        (["tiny", "--encoder", "wisper"], "did you mean 'whisper'?"),
        (["tiny", *TINY, "--set", "grid.patern=delay"], "grid.patern: Extra inputs are not permitted"),
        (["tiny", *TINY, "--set", "grid.pattern=dely"], "unknown delay pattern 'dely'; did you mean 'delay'?"),
        (["tiny", *TINY, "--set", "codec.options.colour=red"], "tiny.colour: Extra inputs are not permitted"),
        (["tiny", *TINY, "--set", "nonsense"], "'nonsense' is not an assignment"),
        (["tiny", *TINY, "--set", "seed=[1"], "is not YAML"),
    ],
)
def test_attach_refuses(arguments: list[str], says: str, tmp_path: Path) -> None:
    assert says in refused("attach", *arguments, "-o", tmp_path / "talker")
    assert not list(tmp_path.iterdir())


def test_attach_to_a_model_without_embedding_or_head(tmp_path: Path) -> None:
    from test_backbones import make_lm, make_tokenizer

    from anytalk_backbones.llama import LlamaBackbone

    LlamaBackbone(make_lm("llama"), make_tokenizer(True), "MIT").save_native(tmp_path / "model")
    weights = next((tmp_path / "model").glob("*.safetensors"))
    tensors = safetensors.torch.load_file(str(weights))
    for key in [key for key in tensors if "embed_tokens" in key or "lm_head" in key]:
        del tensors[key]
    safetensors.torch.save_file(tensors, str(weights), metadata={"format": "pt"})
    assert "lack 2 tensors" in refused("attach", tmp_path / "model", *TINY, "-o", tmp_path / "talker")
    assert not (tmp_path / "talker").exists()


def test_attach_keeps_what_is_there(copy: Path) -> None:
    before = (copy / "talker.yaml").read_bytes()
    assert "already exists" in refused("attach", "tiny", *TINY, "-o", copy)
    assert (copy / "talker.yaml").read_bytes() == before


# ---- sound


def _stereo_8khz() -> tuple[np.ndarray, int]:
    return np.stack([tone(0.4, 8_000), 0.5 * tone(0.4, 8_000)], axis=1), 8_000


@pytest.mark.parametrize(
    ("samples", "rate_hz", "says"),
    [
        (np.zeros(0), RATE_HZ, "holds no samples"),
        (np.zeros(RATE_HZ), RATE_HZ, "is silent"),
        (tone(0.02), RATE_HZ, "lasts 0.020 s"),
        (tone(600, 1_000), 1_000, "lasts 600.0 s; a question may last 30 s"),
    ],
    ids=["empty", "silent", "short", "ten minutes"],
)
def test_sound_that_is_no_question(trained: Path, tmp_path: Path, samples: np.ndarray, rate_hz: int, says: str) -> None:
    soundfile.write(tmp_path / "q.wav", samples, rate_hz)
    assert says in refused("talk", trained, tmp_path / "q.wav")


def test_no_sound_file(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "q.wav").write_text("I am a text")
    assert "is not a sound file that can be read" in refused("talk", trained, tmp_path / "q.wav")
    assert "doesn't exist" in refused("talk", trained, tmp_path / "nowhere.wav")
    assert "doesn't exist" in refused("transcribe", tmp_path / "nowhere.wav")


@pytest.mark.parametrize(
    ("samples", "rate_hz"),
    [(np.stack([tone(0.4), tone(0.4)], axis=1), RATE_HZ), (tone(0.4, 8_000), 8_000), _stereo_8khz()],
    ids=["stereo", "8 kHz", "both"],
)
def test_other_formats_are_understood(trained: Path, tmp_path: Path, samples: np.ndarray, rate_hz: int) -> None:
    soundfile.write(tmp_path / "q.wav", samples, rate_hz)
    result = run("talk", trained, tmp_path / "q.wav", "--max-columns", 8, "-o", tmp_path / "a.wav")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.wav").is_file()


def test_an_answer_that_cannot_be_written(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused("talk", trained, "--text", "Hi", "--max-columns", 8, "-o", tmp_path / "file" / "a.wav")
    assert "can't be written" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no questions were given"),
        (["--text", "a", "--say", "b"], "2 questions were given; exactly one is expected"),
        (["--text", "  "], "the question is empty"),
        (["--text", "a", "--task", "T1A3"], "unknown task 'T1A3'; did you mean"),
        (["--text", "a", "--task", "A1A2"], "task A1A2 needs a spoken question"),
        (["--text", "a", "--task", "T1A2", "--text-only"], "task T1A2 speaks, but --text-only was given"),
        (["--text", "a", "--temperature", "-1"], "temperature is -1.0"),
        (["--text", "a", "--stride", "0"], "stride"),
        (["--text", "a", "--voice", "bob"], "this talker has no voice 'bob'"),
        (["--text", "a", "--device", "abacus"], "device 'abacus' can't be used"),
    ],
)
def test_talk_refuses(trained: Path, arguments: list[str], says: str) -> None:
    assert says in refused("talk", trained, *arguments)


# ---- talker folders


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)


def _replace(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("parts-*.safetensors", Path.unlink, "is missing; talker.yaml names it"),
        ("parts-*.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-9]), "bytes instead of"),
        ("parts-*.safetensors", _damage, "is damaged"),
        ("talker.yaml", Path.unlink, "has no talker.yaml"),
        ("talker.yaml", lambda p: p.write_text(""), "is empty or not a mapping"),
        ("talker.yaml", lambda p: p.write_text("a: [1"), "can't be read as YAML"),
        ("talker.yaml", _replace("seed:", "sead:"), "sead: Extra inputs are not permitted"),
        ("talker.yaml", _replace("name: tiny", "name: tinny"), "did you mean 'tiny'?"),
        ("talker.yaml", _replace("format_version: 2", "format_version: 9"), "newer anytalk"),
        ("talker.yaml", _replace("format_version: 2", "format_version: one"), "format_version"),
    ],
)
def test_a_damaged_talker(copy: Path, file: str, change: Callable[[Path], object], says: str) -> None:
    change(next(copy.glob(file)))
    assert says in refused("talk", copy, "--text", "Hi", "--max-columns", 4)


@pytest.mark.parametrize(
    "change",
    [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.write_bytes(b"ab")],
)
def test_info_notices_weights_that_are_not_whole(copy: Path, change: Callable[[Path], object]) -> None:
    assert run("info", copy).exit_code == 0
    change(next(copy.glob("parts-*.safetensors")))
    assert "copy the folder again" in refused("info", copy)


def test_no_talker_at_all(tmp_path: Path) -> None:
    for command in (["info"], ["talk", "--text", "x"], ["train", "--data", "x"]):
        assert "doesn't exist" in refused(command[0], tmp_path / "none", *command[1:])


# ---- training


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "none.jsonl"], "'none.jsonl' doesn't exist"),
        (["--data", "x", "--recipe", "papper"], "unknown recipe 'papper'; did you mean 'paper'?"),
        (["--data", "x", "--recipe", "none.yaml"], "recipe file 'none.yaml' doesn't exist"),
        (["--data", "x", "--precision", "fp12"], "precision 'fp12' is unknown"),
        (["--data", "x", "--set", "alignmint.steps=1"], "did you mean 'alignment'?"),
        (["--data", "x", "--stage", "sing"], "has no stage 'sing'"),
    ],
)
def test_train_refuses(trained: Path, arguments: list[str], says: str) -> None:
    assert says in refused("train", trained, *arguments)


def test_a_manifest_that_lacks_what_a_task_needs(trained: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"question_text": "Hi", "answer_text": "Ho"}\n')
    before = (trained / "talker.yaml").read_bytes()
    said = refused("train", trained, "--data", manifest, "--recipe", "demo")
    assert "m.jsonl:1: it has only question_text, answer_text" in said
    assert "no row of the data serves task A1T2" in said
    assert (trained / "talker.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no texts"),
        ("{", "t.jsonl:1 is not JSON"),
        ('{"answer_text": "x"}', "t.jsonl:1 has no 'question_text'"),
        ('{"question_text": "x", "answer_text": 3}', "'answer_text' is a int"),
    ],
)
def test_voice_refuses(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    assert says in refused("voice", tmp_path / "t.jsonl", "-o", tmp_path / "out")


def test_voice_refuses_before_it_loads_anything(tmp_path: Path) -> None:
    assert "doesn't exist" in refused("voice", tmp_path / "t.jsonl", "-o", tmp_path / "out")
    assert "--speeds is 'fast'" in refused("voice", tmp_path / "t.jsonl", "-o", tmp_path / "out", "--speeds", "fast")
    said = refused("voice", tmp_path / "t.jsonl", "-o", tmp_path / "out", "--synthesizer", "pipper")
    assert "did you mean 'piper'?" in said


def test_unknown_part_names_get_a_suggestion() -> None:
    assert "did you mean 'snac'?" in refused("plugins", "snack")


def test_an_unknown_option_is_a_usage_error() -> None:
    result = run("talk", "x", "--temprature", "1")
    assert result.exit_code == 2
    assert "--temperature" in result.stderr


def test_import_of_no_folder(tmp_path: Path) -> None:
    assert "is not a folder" in refused("import-mini-omni", tmp_path / "none", "-o", tmp_path / "out")


# ---- plugins of others


def test_a_broken_plugin_costs_a_line_and_nothing_else(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("no module named 'cat'")

    broken = SimpleNamespace(name="broken", dist=SimpleNamespace(name="cats", version="1"), load=fail)
    real = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [*real(group=group), broken])
    default_registry.cache_clear()
    try:
        listed = run("plugins")
        assert listed.exit_code == 0
        assert "plugin 'broken' failed: ImportError: no module named 'cat'" in listed.stderr
        assert run("info", trained).exit_code == 0
        assert run("talk", trained, "--text", "Hi", "--max-columns", 4).exit_code == 0
    finally:
        default_registry.cache_clear()


# ---- saves that are cut short


def _full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["weights", "card", "configuration"])
@pytest.mark.parametrize(("fail", "error"), [(_full_disk, TalkerError), (_interrupt, KeyboardInterrupt)])
def test_a_save_that_is_cut_short_leaves_the_old_talker(
    copy: Path, monkeypatch: pytest.MonkeyPatch, place: str, fail: Callable[..., None], error: type[BaseException]
) -> None:
    """Torn off while the weights, the model card or talker.yaml are written."""
    talker = load_talker(copy)
    before = {name: tensor.clone() for name, tensor in talker.model.state_dict().items()}
    config = talker.config
    with torch.no_grad():
        for parameter in talker.model.heads.parameters():
            parameter.add_(1.0)
    record = StageRecord(name="s", trained=["heads"], steps=1, loss_first=1, loss_last=1, seconds=1)
    if place == "weights":
        monkeypatch.setattr(safetensors.torch, "save_file", fail)
    else:
        real = talker_module.write_whole
        ending = "README.md" if place == "card" else "talker.yaml"

        def write(path: Path, text: str) -> None:
            with written_whole(path) as partial:
                partial.write_text(text[:20])
                if path.name == ending:
                    fail()
            real(path, text)

        monkeypatch.setattr(talker_module, "write_whole", write)
    with pytest.raises(error):
        save_talker(talker, copy, trained={"heads"}, record=record)
    monkeypatch.undo()
    assert not list(copy.glob(".*partial*"))
    again = load_talker(copy)
    assert again.config == config
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("fail", "code"), [(_full_disk, 1), (_interrupt, 130)])
def test_an_attach_that_is_cut_short_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., None], code: int
) -> None:
    monkeypatch.setattr(talker_module, "write_whole", fail)
    result = run("attach", "tiny", *TINY, "-o", tmp_path / "talker")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert ("No space left on device" if code == 1 else "interrupted") in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "'x': No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "y"), "'y': Permission denied"),
        (OSError("odd"), "OSError: odd"),
        (MemoryError(), "there is not enough memory"),
    ],
)
def test_what_the_machine_lacks_is_no_bug(error: Exception, said: str) -> None:
    message, hint = _of_the_machine(error)  # type: ignore[arg-type]
    assert message == said
    assert hint
