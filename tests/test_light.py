"""Attaching, talking and serving work without the packages of the other extras, and whoever needs one is told which."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import model_folder

from anytalk.errors import ConfigError
from anytalk.plugins.optional import require

ROOT = Path(__file__).resolve().parent.parent
BLOCKED = [
    "accelerate", "datasets", "deepspeed", "jiwer", "matplotlib", "openai", "pandas", "peft", "piper", "pyarrow",
    "sounddevice", "tensorboard",
]  # fmt: skip
SERVING = ["fastapi", "uvicorn", "websockets", "silero_vad", "prometheus_client", "multipart"]
WITHOUT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from anytalk.cli import main
main()
"""


def without(blocked: list[str], *arguments: str | Path) -> list[str]:
    """The command line of an `anytalk` to which these packages are not installed."""
    return [sys.executable, "-c", WITHOUT.format(blocked=blocked), *map(str, arguments)]


def run(*arguments: str | Path, blocked: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = without(BLOCKED + SERVING if blocked is None else blocked, *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def works(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    model = model_folder(folder / "model", "llama")
    works("attach", model, "-o", folder / "t", "--codec", "tiny", "--encoder", "tiny")
    return folder / "t"


def test_talking_needs_no_extra(talker: Path, tmp_path: Path) -> None:
    question = tmp_path / "question.wav"
    soundfile.write(question, 0.1 * np.sin(np.arange(8_000, dtype=np.float32)), 16_000)
    works("talk", talker, "--text", "hi", "--max-columns", "12", "-o", tmp_path / "a.wav")
    works("talk", talker, question, "--max-columns", "12", "-o", tmp_path / "b.wav")
    assert soundfile.info(tmp_path / "a.wav").samplerate == soundfile.info(tmp_path / "b.wav").samplerate
    works("info", talker)
    works("plugins")


def test_serving_needs_its_own_extra_alone(talker: Path) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = without(BLOCKED, "serve", talker, "--port", "0", "--max-columns", "12")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            told = server.stdout.readline()
            address = re.search(r"http://\S+", told)
            assert address is not None, told + (server.communicate(timeout=60)[1] if not told else "")
            asked = json.dumps({"model": "t", "messages": [{"role": "user", "content": "hi"}]}).encode()
            request = urllib.request.Request(
                f"{address[0]}v1/chat/completions", asked, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answered:
                assert json.load(answered)["choices"][0]["finish_reason"]
        finally:
            server.terminate()
            server.communicate(timeout=60)


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["serve", "TALKER"], ["fastapi"], "serve"),
        (["train", "TALKER", "--data", "ROWS", "--recipe", "demo"], ["accelerate"], "train"),
        (["prepare", "ROWS", "-o", "OUT", "--talker", "TALKER"], ["datasets"], "train"),
        (["eval", "TALKER", "--suite", "SUITE", "-o", "OUT"], ["matplotlib"], "report"),
        (["layout", "T1A1", "hello", "--png", "OUT/a.png"], ["matplotlib"], "report"),
        (["bench", "decode", "TALKER", "--profile", "a.png"], ["matplotlib"], "report"),
        (["attach", "http://127.0.0.1:9/v1", "--model", "m", "-o", "OUT", "--encoder", "tiny"], ["openai"], "served"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_who_needs_an_extra_is_told_in_a_sentence(
    talker: Path, tmp_path: Path, arguments: list[str], missing: list[str], extra: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question_text": "a", "answer_text": "b", "tasks": ["text_to_text"]}) + "\n")
    suite = tmp_path / "suite.yaml"
    suite.write_text("source: {kind: jsonl, path: rows.jsonl}\nmeasures:\n  - {kind: latency, ask: [text]}\n")
    places = {"TALKER": str(talker), "ROWS": str(rows), "OUT": str(tmp_path / "out"), "SUITE": str(suite)}
    done = run(*[re.sub("|".join(places), lambda m: places[m[0]], word) for word in arguments], blocked=missing)
    told = " ".join(done.stderr.split())
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in told
    assert f"needs the package {missing[0]}, which is not installed" in told
    assert f"pip install 'anytalk[{extra}]'" in told


def test_several_missing_packages_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match="training needs the packages nobody_has, nor_this, which are not installed"):
        require("training", "train", "json", "nobody_has", "nor_this")
    require("training", "train", "json")


def test_what_the_code_asks_for_is_in_the_extra_that_it_names() -> None:
    """Every ``require(...)`` names packages that its extra installs, or that a core install has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    calls = [
        (path, found[1], re.findall(r'"(\w+)"', found[2]))
        for folder in ("anytalk", "backbones", "adapters")
        for path in (ROOT / folder).rglob("*.py")
        for found in re.finditer(
            r'require\(\s*(?:f?"[^"]*"|\w+), "([\w-]+)",([^)]*)\)', path.read_text(encoding="utf-8")
        )
    ]
    assert len(calls) > 8
    for path, extra, packages in calls:
        listed = " ".join(project["optional-dependencies"][extra])
        assert not [name for name in packages if name not in listed], f"{path.name}: {extra} has only {listed}"
        assert not [name for name in packages if any(d.startswith(name) for d in project["dependencies"])], path.name
