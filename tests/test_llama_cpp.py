"""The backbone ``llama-cpp``: each has a child process that never outlives its parent, and its faults are sentences.

A stand-in for xllamacpp runs in the child; tests/test_llama_cpp_real.py has the real one.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served_parts import VOICE, served_talker
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.errors import AnytalkError, ConfigError, ServedError, TalkerError, WeightsError
from anytalk.model.attach import attach, choose_backbone
from anytalk.model.config import read_config
from anytalk.model.talker import load_talker
from anytalk.plugins import BuildContext, PartRef
from anytalk.plugins.contracts import TextRequest
from anytalk.plugins.registry import default_registry
from anytalk.plugins.sources import resolve
from anytalk.plugins.testing import check_served_backbone
from anytalk_backbones.llama_cpp import LlamaCppBackbone

pytest.importorskip("openai")
FAKE = Path(__file__).resolve().parent / "fake_llama_cpp"
SMALL_VOICE = [
    "ears=null",
    "codec={name: tiny}",
    *(f"output_adapter.options.{name}={value}" for name, value in VOICE.items()),
]
LINUX = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc, which Linux has")


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE), os.environ.get("PYTHONPATH", "")]))
    # The user's own key is none of the child's business, and a proxy isn't for this machine.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def gguf(folder: Path, told: str = "") -> Path:
    """A file with a GGUF header, and for the stand-in what its server is to do."""
    folder.mkdir(exist_ok=True)
    path = folder / "small.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 0) + told.encode())
    return path


def backbone_of(model: Path | str, **options: Any) -> LlamaCppBackbone:
    built = default_registry().build(
        "backbone", PartRef(name="llama-cpp", options={"model": str(model), **options}), BuildContext()
    )
    assert isinstance(built, LlamaCppBackbone)
    return built


def ask(backbone: LlamaCppBackbone, question: str) -> tuple[str, AnytalkError | None]:
    stream = backbone.answer(TextRequest(messages=({"role": "user", "content": question},), max_tokens=20))
    text, is_ended, latest = "", False, time.monotonic() + 30
    while not is_ended:
        assert time.monotonic() < latest
        more, is_ended = stream.take()
        text += more
        time.sleep(0.005)
    return text, stream.error


def settings_of(backbone: LlamaCppBackbone) -> dict[str, int]:
    text, error = ask(backbone, "settings")
    assert error is None
    found: dict[str, int] = json.loads(text)
    return found


def is_gone(pid: int, within_s: float = 10.0) -> bool:
    latest = time.monotonic() + within_s
    while time.monotonic() < latest:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # ended, and not yet reaped by the process that adopted it
            return True
        time.sleep(0.02)
    return False


def test_it_keeps_its_contract(tmp_path: Path) -> None:
    check_served_backbone("llama-cpp", options={"model": str(gguf(tmp_path))})


def test_what_llama_cpp_is_told(tmp_path: Path) -> None:
    found = settings_of(backbone_of(gguf(tmp_path), context=1000, threads=3))
    assert (found["context"], found["threads"]) == (1000, 3)


def test_only_a_choice_by_name_uses_it(tmp_path: Path) -> None:
    assert choose_backbone(resolve(str(gguf(tmp_path))), default_registry()) != "llama-cpp"


def test_attach_talk_and_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf(tmp_path)
    monkeypatch.chdir(tmp_path)
    attach("small.gguf", "t", backbone="llama-cpp", assignments=SMALL_VOICE)
    config = read_config(tmp_path / "t")
    assert config.backbone.options["model"] == str(tmp_path / "small.gguf")
    assert config.base is not None
    assert config.base.model == "'small.gguf' in llama.cpp on this machine"
    assert {path.name for path in tmp_path.iterdir()} == {"small.gguf", "t"}
    written = "".join(path.read_text(errors="replace") for path in (tmp_path / "t").rglob("*") if path.is_file())
    assert "sk-very-secret" not in written
    done = CliRunner().invoke(build_app(), ["talk", "t", "--text", "What time is it?", "--text-only"])
    assert done.exit_code == 0, done.output
    assert "It is nine." in done.output
    assert "in llama.cpp on this machine" in " ".join(done.output.split())
    done = CliRunner().invoke(build_app(), ["info", "t"])
    assert done.exit_code == 0
    assert "small.gguf" in done.output


def test_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    attach(str(gguf(tmp_path)), tmp_path / "t", backbone="llama-cpp", assignments=SMALL_VOICE)
    load_talker(tmp_path / "t")
    gguf(tmp_path, "It is ten.")
    with pytest.raises(TalkerError, match="has other weights"):
        load_talker(tmp_path / "t")


def test_a_conversation_is_spoken(tmp_path: Path) -> None:
    session = Session(served_talker(backbone_of(gguf(tmp_path))))
    for question in ("What time is it?", "And now?"):
        *_, done = session.ask(text=question, options=DecodeOptions(max_columns=30))
        assert isinstance(done, AnswerDone)
        assert done.text == "It is nine."
        assert done.audio_s > 0


def test_pieces_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gguf(tmp_path / "whole", "It is half past nine.").read_bytes()
    package = tmp_path / "cut_up"
    package.mkdir()
    for number, piece in enumerate((whole[:30], whole[30:]), 1):
        (package / f"piece{number}").write_bytes(piece)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ask(backbone_of("package:cut_up/piece[1-2]"), "hi") == ("It is half past nine.", None)
    # As on systems that can't keep a file in memory alone.
    monkeypatch.delattr(os, "memfd_create", raising=False)
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    backbone = backbone_of("package:cut_up/piece[1-2]")
    assert ask(backbone, "hi") == ("It is half past nine.", None)
    assert list(place.iterdir())
    del backbone
    gc.collect()
    assert not list(place.iterdir())


# ---- what goes wrong


@pytest.mark.parametrize(
    ("told", "said", "hint"),
    [
        ("FAIL llama_model_load: error loading model: data is not within the file", ": data is not within", "again"),
        ("FAIL x: error loading model: unknown model architecture: 'new'", "unknown model architecture", "--upgrade"),
        ("FAIL ggml_backend: failed to allocate buffer of size 99", "failed to allocate", "backbone.options.context"),
        ("KILL", "killed .signal 9., as systems do when memory", "a smaller file"),
    ],
)
def test_a_file_that_can_not_be_loaded_is_a_sentence(told: str, said: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"llama.cpp can't load '.*small.gguf': .*{said}|{said}") as caught:
        attach(str(gguf(tmp_path, told)), tmp_path / "t", backbone="llama-cpp", assignments=SMALL_VOICE)
    assert hint in caught.value.hint
    assert not (tmp_path / "t").exists()


def test_it_is_tried_again_with_the_next_question(tmp_path: Path) -> None:
    path = gguf(tmp_path, "FAIL out of everything")
    backbone = backbone_of(path)
    for _ in range(2):
        assert "out of everything" in str(ask(backbone, "hi")[1])
    gguf(tmp_path)
    assert ask(backbone, "hi") == ("It is nine.", None)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"hello", "is not a GGUF file"), (b"<html>", "it is a web page"), (None, "doesn't exist")],
)
def test_what_is_no_gguf_is_refused_before_anything_starts(data: bytes | None, said: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(WeightsError, match=said):
        backbone_of(tmp_path / "model.gguf")
    for other in ("Qwen/Qwen2-0.5B", str(tmp_path)):
        with pytest.raises(WeightsError, match=r"is not a \.gguf file"):
            backbone_of(other)


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytalk.plugins.optional.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="'llama-cpp' needs the package xllamacpp") as caught:
        backbone_of(gguf(tmp_path))
    assert caught.value.hint == "pip install 'anytalk[llama-cpp]'"


def test_a_process_that_dies_ends_its_answer_and_the_next_question_starts_another(tmp_path: Path) -> None:
    backbone = backbone_of(gguf(tmp_path))
    before = settings_of(backbone)["pid"]
    text, error = ask(backbone, "die")
    assert text == "I am"
    assert isinstance(error, ServedError)
    assert "llama.cpp stopped while it ran" in error.message
    assert "ggml: a row is missing" in error.message
    assert ask(backbone, "hi") == ("It is nine.", None)
    between = settings_of(backbone)["pid"]
    os.kill(between, signal.SIGKILL)
    time.sleep(0.2)
    assert settings_of(backbone)["pid"] not in (before, between)


def test_a_conversation_that_is_too_long_is_a_sentence(tmp_path: Path) -> None:
    _, error = ask(backbone_of(gguf(tmp_path)), "long")
    assert error is not None
    assert "can't read a conversation this long" in error.message
    assert "backbone.options.context" in error.hint


def test_training_is_refused(tmp_path: Path) -> None:
    from anytalk.train.freeze import apply_freeze

    talker = served_talker(backbone_of(gguf(tmp_path)))
    with pytest.raises(ConfigError, match=r"can't be trained: its language model, 'small.gguf' in llama.cpp"):
        apply_freeze(talker.model, ["output_adapter"])


# ---- the process


@LINUX
def test_the_process_goes_with_its_backbone(tmp_path: Path) -> None:
    backbone = backbone_of(gguf(tmp_path))
    pid = settings_of(backbone)["pid"]
    assert not is_gone(pid, 0.1)
    del backbone
    gc.collect()
    assert is_gone(pid)


PARENT = """
import signal, sys, time
from anytalk.plugins import BuildContext, PartRef
from anytalk.plugins.registry import default_registry

part = PartRef(name="llama-cpp", options={"model": sys.argv[1]})
backbone = default_registry().build("backbone", part, BuildContext())
if sys.argv[2] != "loading":
    backbone.check()
print(backbone._process.pid, flush=True)
if sys.argv[2] == "exit":
    sys.exit()
time.sleep(1000)
"""


@LINUX
@pytest.mark.parametrize("way", ["exit", "kill", "loading", "terminate"])
def test_the_process_never_outlives_its_parent(way: str, tmp_path: Path) -> None:
    model = gguf(tmp_path, "SLOW" if way == "loading" else "")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(model), way], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        stop: dict[str, Callable[[], None]] = {"exit": lambda: None, "terminate": parent.terminate}
        stop.get(way, parent.kill)()
        assert is_gone(pid)
        _, said = parent.communicate(timeout=20)
    assert "Error" not in said


@LINUX
def test_ctrl_c_in_the_terminal_leaves_the_model_running(tmp_path: Path) -> None:
    backbone = backbone_of(gguf(tmp_path))
    pid = settings_of(backbone)["pid"]
    os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert settings_of(backbone)["pid"] == pid


def test_talking_over_an_answer_ends_it_and_the_next_one_comes(tmp_path: Path) -> None:
    session = Session(served_talker(backbone_of(gguf(tmp_path))))
    events = session.ask(text="forever", options=DecodeOptions(max_columns=2000))
    next(events)
    events.close()
    *_, done = session.ask(text="What time is it?", options=DecodeOptions(max_columns=30))
    assert isinstance(done, AnswerDone)
    assert done.text == "It is nine."
