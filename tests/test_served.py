"""A model behind an OpenAI-compatible endpoint: what it is asked, and that each of its bad days is a sentence."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from endpoint_lab import Endpoint, Reply, Script, endpoint, forever
from served_parts import VOICE, served_talker
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.sampling import SamplingOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta, ThoughtDelta
from anytalk.errors import ConfigError, ServedError
from anytalk.model.attach import attach
from anytalk.model.talker import load_talker
from anytalk.plugins import BuildContext, PartRef
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_served_backbone

pytest.importorskip("openai")
SHORT = DecodeOptions(max_columns=30)
KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def served() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


def session_with(url: str, **options: Any) -> Session:
    part = PartRef(name="served", options={"model": url, "name": "small", **options})
    return Session(served_talker(default_registry().build("backbone", part, BuildContext())))


def ask(session: Session, question: str = "What time is it?", **more: Any) -> tuple[str, AnswerDone]:
    events = list(session.ask(text=question, **{"options": SHORT, **more}))
    assert isinstance(events[-1], AnswerDone)
    assert any(isinstance(event, AudioDelta) for event in events)
    return "".join(event.text for event in events if isinstance(event, TextDelta)), events[-1]


def test_thoughts_are_told_apart_and_not_spoken(served: Endpoint) -> None:
    def in_a_field(reply: Reply) -> None:
        reply.begin()
        reply.text(None, reasoning_content="Hm, ")
        reply.text("", reasoning="nine?")
        reply.text("It is nine.")
        reply.end()

    for script in (in_a_field, lambda reply: reply.say("<thi", "nk>Hm, nine?</", "think>", "\n\nIt is", " nine.")):
        served.script = script
        events = list(session_with(served.url).ask(text="What time is it?", options=SHORT))
        assert "".join(event.text for event in events if isinstance(event, ThoughtDelta)) == "Hm, nine?"
        assert isinstance(events[-1], AnswerDone)
        assert events[-1].text == "It is nine."


def test_what_goes_over_the_line(served: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    session = session_with(served.url, fields={"seed": None, "reasoning_effort": "low"})
    text, done = ask(session, options=DecodeOptions(max_columns=30, seed=5, text=SamplingOptions(temperature=0.5)))
    assert text == done.text == "It is nine."
    assert served.asked == [
        {
            "model": "small",
            "messages": [{"role": "user", "content": "What time is it?"}],
            "stream": True,
            "temperature": 0.5,
            "max_tokens": 30,
            "reasoning_effort": "low",
        }
    ]
    assert served.keys == [f"Bearer {KEY}"]
    ask(session, "And now?")
    assert [m["content"] for m in served.asked[1]["messages"]] == ["What time is it?", "It is nine.", "And now?"]


def test_a_key_by_the_name_of_its_variable(served: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_with(served.url, key_from="THEIR_KEY")
    with pytest.raises(ConfigError, match="THEIR_KEY is not set"):
        ask(session)
    monkeypatch.setenv("THEIR_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    ask(session)
    assert served.keys == [f"Bearer {KEY}"]


def drops(reply: Reply) -> None:
    reply.begin()
    reply.text("It is ni")
    time.sleep(0.05)
    reply.drop()


def stops_without_a_reason(reply: Reply) -> None:
    reply.begin()
    reply.text("It is ni")
    reply.raw("data: [DONE]\n\n")
    reply._handler.wfile.write(b"0\r\n\r\n")


def breaks(reply: Reply) -> None:
    reply.begin()
    reply.text("It is ni")
    reply.event({"error": {"message": "out of memory"}})
    reply.end()


def garbage(reply: Reply) -> None:
    reply.begin()
    reply.raw("data: {nonsense\n\n")
    reply.end()


def page(reply: Reply) -> None:
    reply.begin("text/html")
    reply.raw("<html>Welcome!</html>")
    reply._handler.wfile.write(b"0\r\n\r\n")


def another_api(reply: Reply) -> None:
    reply.begin()
    reply.event({"completion": "It is nine."})
    reply.end()


def thinks_only(reply: Reply) -> None:
    reply.begin()
    reply.text(None, reasoning_content="Hm.")
    reply.end("length")


def says_nothing_yet(reply: Reply) -> None:
    reply.begin()
    time.sleep(3.0)
    reply.text("too late")


def pings(reply: Reply) -> None:
    reply.begin()
    while True:
        reply.raw(": ping\n\n")
        time.sleep(0.05)


BAD_DAYS: list[tuple[Script, str, str]] = [
    (drops, "lost in the middle of the answer", "It is ni"),
    (stops_without_a_reason, "lost in the middle of the answer", "It is ni"),
    (breaks, "out of memory", "It is ni"),
    (garbage, "isn't a stream of text", ""),
    (page, "isn't a stream of text", ""),
    (another_api, "a piece without choices", ""),
    (thinks_only, "wrote nothing", ""),
    (says_nothing_yet, "has written nothing for 1.5 s", ""),
    (pings, "has written nothing for 1.5 s", ""),
    (lambda reply: reply.error(401, f"Incorrect API key: {KEY}"), "refuses the key in OPENAI_API_KEY", ""),
    (lambda reply: reply.error(403, "not for you"), "refuses the key", ""),
    (lambda reply: reply.error(404, "no such model"), "has no model 'small'", ""),
    (lambda reply: reply.error(429, "busy", retry_after="30"), "ask again in 30 s", ""),
    (lambda reply: reply.error(429, "no credit"), "no more questions at the moment .429.: no credit", ""),
    (lambda reply: reply.error(503, "loading model"), "answered with an error: loading model", ""),
    (lambda reply: reply.drop(), "can't be reached", ""),
]


@pytest.mark.parametrize(("script", "said", "heard"), BAD_DAYS)
def test_a_bad_day_is_a_sentence_and_the_conversation_goes_on(
    script: Script, said: str, heard: str, served: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    session = session_with(served.url, timeout_s=1.5 if "1.5 s" in said else 30)
    ask(session, "First.")
    good, served.script = served.script, script
    asking, events = session.ask(text="Second.", options=SHORT), list[Any]()
    with pytest.raises(ServedError, match=said) as caught:
        events += iter(lambda: next(asking), None)
    assert KEY not in str(caught.value)
    assert caught.value.hint
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == heard
    assert any(isinstance(event, AudioDelta) for event in events) == bool(heard)
    served.script = good
    ask(session, "Third.")
    kept = ["Second.", heard] if heard else []
    assert [m["content"] for m in served.asked[-1]["messages"]] == ["First.", "It is nine.", *kept, "Third."]


def test_a_wrong_key_that_was_not_set(served: Endpoint) -> None:
    served.script = lambda reply: reply.error(401, "no key")
    with pytest.raises(ServedError, match="needs a key, and OPENAI_API_KEY is not set"):
        ask(session_with(served.url))


def test_a_short_pause_is_waited_for(served: Endpoint) -> None:
    good = served.script

    def busy_once(reply: Reply) -> None:
        served.script = good
        reply.error(429, "busy", retry_after="0.2")

    served.script = busy_once
    assert ask(session_with(served.url))[0] == "It is nine."
    assert len(served.asked) == 2


def test_an_endpoint_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServedError, match=f"http://127.0.0.1:{port}/v1 can't be reached"):
        ask(session_with(f"http://127.0.0.1:{port}/v1/"))


def test_an_endless_answer_is_hung_up_on(served: Endpoint) -> None:
    served.script = forever
    _, done = ask(session_with(served.url))
    assert done.finish_reason == "length"
    assert served.hung_up.wait(20)


def test_a_server_that_minds_no_limit_is_read_no_further(served: Endpoint) -> None:
    def floods(reply: Reply) -> None:
        reply.begin()
        while True:
            reply.text("x" * 500)

    served.script = floods
    session = session_with(served.url)
    stream = session.talker.model.backbone.answer(request_of("hi"))
    assert served.hung_up.wait(20)
    text, is_ended, latest = "", False, time.monotonic() + 20
    while not is_ended and time.monotonic() < latest:  # the stream is told after the connection is closed
        more, is_ended = stream.take()
        text += more
        time.sleep(0.01)
    assert is_ended
    assert stream.was_cut
    assert len(text) < 1000


def request_of(question: str) -> Any:
    from anytalk.plugins.contracts import TextRequest

    return TextRequest(messages=({"role": "user", "content": question},), max_tokens=10)


def test_talking_over_an_answer_hangs_up(served: Endpoint) -> None:
    served.script = forever
    events = session_with(served.url).ask(text="hi", options=DecodeOptions(max_columns=2000))
    next(events)
    assert not served.hung_up.is_set()
    events.close()
    assert served.hung_up.wait(20)


def test_what_the_endpoint_cut_is_told(served: Endpoint) -> None:
    def cut(reply: Reply) -> None:
        reply.begin()
        reply.text("It was")
        reply.end("length")

    served.script = cut
    assert ask(session_with(served.url))[1].finish_reason == "length"


# ---- attach

SMALL_VOICE = [
    "ears=null",
    "codec={name: tiny}",
    *(f"output_adapter.options.{name}={value}" for name, value in VOICE.items()),
]


def test_attach_and_load(served: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", KEY)
    settings = ["backbone.options.name=large", "backbone.options.key_from=THEIR_KEY", *SMALL_VOICE]
    attach(served.url, tmp_path / "t", assignments=settings)
    assert served.asked[0]["model"] == "large"
    assert served.asked[0]["max_tokens"] == 1
    written = "".join(path.read_text() for path in (tmp_path / "t").rglob("*") if path.is_file())
    assert KEY not in written
    assert "THEIR_KEY" in written
    talker = load_talker(tmp_path / "t")
    assert talker.config.base is not None
    assert talker.config.base.model == f"'large' at {served.url}"
    assert talker.config.encoder is None
    assert ask(Session(talker))[0] == "It is nine."


def attach_by_command(url: str, folder: Path, *more: str) -> Any:
    settings = [part for setting in SMALL_VOICE for part in ("--set", setting)]
    return CliRunner().invoke(build_app(), ["attach", url, "-o", str(folder), *settings, *more])


def test_the_command(served: Endpoint, tmp_path: Path) -> None:
    done = attach_by_command(served.url, tmp_path / "t", "--model", "small")
    assert done.exit_code == 0, done.output
    assert load_talker(tmp_path / "t").config.backbone.options["name"] == "small"


def test_a_conversation_in_the_terminal(served: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal and Ctrl-C end their turns alone, and Ctrl-C hangs up."""
    attach(served.url, tmp_path / "t", assignments=["backbone.options.name=small", *SMALL_VOICE])
    good = served.script

    def by_the_question(reply: Reply) -> None:
        asked = reply.body["messages"][-1]["content"]
        {"refused": lambda reply: reply.error(429, "busy"), "endless": forever}.get(asked, good)(reply)

    served.script = by_the_question
    echo = typer.echo

    def interrupt(message: object = "", **more: Any) -> None:
        if message == "and":
            raise KeyboardInterrupt
        echo(message, **more)

    monkeypatch.setattr("anytalk.cli.talk.typer.echo", interrupt)
    lines = "one\nrefused\nendless\ntwo\n/quit\n"
    done = CliRunner().invoke(build_app(), ["talk", str(tmp_path / "t"), "-i", "--max-columns", "40"], input=lines)
    assert done.exit_code == 0, done.output
    assert f"questions go to 'small' at {served.url}" in " ".join(done.output.split())
    assert done.output.count("It is nine.") == 2
    assert "busy" in done.output
    assert "stopped" in done.output
    assert served.hung_up.wait(20)
    assert [m["content"] for m in served.asked[-1]["messages"]] == ["one", "It is nine.", "two"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "add --model NAME; it has small, large"),
        (("--model", "small", "--key-from", "sk-secret-1"), "key_from"),
        (("--model", "small", "--output-adapter", "none"), "needs the language model itself"),
        (("--model", "small", "--encoder", "tiny", "--input-adapter", "stack"), "ears that write"),
    ],
)
def test_what_can_not_be_attached(more: tuple[str, ...], said: str, served: Endpoint, tmp_path: Path) -> None:
    settings = [s for s in SMALL_VOICE if "none" not in more or not s.startswith("output_adapter")]
    settings = [part for setting in settings for part in ("--set", setting)]
    done = CliRunner().invoke(build_app(), ["attach", served.url, "-o", str(tmp_path / "t"), *settings, *more])
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())
    assert "sk-secret-1" not in done.output
    assert not (tmp_path / "t").exists()


def test_a_wrong_key_is_told_when_attaching(served: Endpoint, tmp_path: Path) -> None:
    served.script = lambda reply: reply.error(401, "no key")
    with pytest.raises(ServedError, match="needs a key"):
        attach(served.url, tmp_path / "t", assignments=["backbone.options.name=small", *SMALL_VOICE])
    assert not (tmp_path / "t").exists()


def test_addresses_hold_no_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a password"):
        attach("http://me:secret@127.0.0.1:1/v1", tmp_path / "t", assignments=SMALL_VOICE)


def test_model_and_key_belong_to_an_address(tmp_path: Path) -> None:
    done = CliRunner().invoke(build_app(), ["attach", "tiny", "-o", str(tmp_path / "t"), "--model", "small"])
    assert done.exit_code == 1
    assert "'tiny' isn't an address" in done.output


def test_it_keeps_its_contract(served: Endpoint) -> None:
    check_served_backbone("served", options={"model": served.url, "name": "small"})


# ---- what it can't do


def test_training_is_refused(served: Endpoint, tmp_path: Path) -> None:
    from anytalk.train.freeze import apply_freeze

    talker = session_with(served.url).talker
    with pytest.raises(ConfigError, match="can't be trained: its language model, 'small' at http"):
        apply_freeze(talker.model, ["output_adapter"])
