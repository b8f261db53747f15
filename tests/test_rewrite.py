"""Rewriting against a real server on this machine that speaks OpenAI's chat completions, its bad days included."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_talker, write_lines
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.errors import ConfigError
from anytalk.plugins.contracts import Row
from anytalk.plugins.endpoint import read_key
from anytalk.text import rewrite as rewriting
from anytalk.text.clean import Cleaner, Dropped
from anytalk.text.rewrite import EndpointRewriter, Outcome, Request, RewriteCache, Rewriter, RewriteStep, TalkerRewriter
from anytalk.text.rules import Rules

pytest.importorskip("openai")


def completion(text: str | None, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
    }


Reply = tuple[int, Any]
"""Status, and a JSON body or raw bytes."""


class Server:
    """Records what it is asked and answers as `script` says; by default with ``Said: ...``."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.script: Callable[[int, str], Reply] = lambda number, prompt: (200, completion(f"Said: {prompt[-4:]}"))
        self.under_way, self.most_under_way = 0, 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer._lock:
                    number = len(outer.asked)
                    outer.asked.append({**body, "path": self.path})
                    outer.keys.append(self.headers["authorization"])
                    outer.under_way += 1
                    outer.most_under_way = max(outer.most_under_way, outer.under_way)
                try:
                    status, reply = outer.script(number, body["messages"][-1]["content"])
                finally:
                    with outer._lock:
                        outer.under_way -= 1
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(data)))
                    if status >= 400:
                        self.send_header("retry-after-ms", "5")
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # a client that stopped waiting
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


@pytest.fixture
def rewriter(server: Server) -> Iterator[Callable[..., EndpointRewriter]]:
    made: list[EndpointRewriter] = []

    def make(**changes: Any) -> EndpointRewriter:
        made.append(EndpointRewriter(server.url, "m", "secret", **{"concurrency": 1, "retries": 2, **changes}))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[RewriteCache]:
    made = RewriteCache(tmp_path / "cache.jsonl")
    yield made
    made.close()


def requests(count: int) -> list[Request]:
    return [Request(f"q{i:03d}", f"a{i:03d}") for i in range(count)]


def run(rewriter: Rewriter, cache: RewriteCache, asked: list[Request]) -> list[Outcome]:
    return RewriteStep(rewriter, cache).run(asked)


def test_question_answer_and_key_reach_the_model(server: Server, rewriter: Any, cache: RewriteCache) -> None:
    assert run(rewriter(), cache, [Request("Why is it so?", "Because **so**."), Request("", "Only an answer.")]) == [
        ("Said: o**.", ""),
        ("Said: wer.", ""),
    ]
    body = server.asked[0]
    assert (body["path"], body["model"], body["temperature"]) == ("/v1/chat/completions", "m", 0.0)
    assert body["messages"][0] == {"role": "system", "content": rewriting.INSTRUCTION}
    assert server.prompts() == ["Question: Why is it so?\n\nAnswer: Because **so**.", "Answer: Only an answer."]
    assert server.keys[0] == "Bearer secret"


def test_nothing_is_asked_twice(server: Server, rewriter: Any, tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    first = RewriteCache(path)
    asked = [*requests(3), requests(1)[0]]
    outcomes = run(rewriter(), first, asked)
    first.close()
    assert len(server.asked) == 3
    again = RewriteCache(path)
    assert run(rewriter(), again, asked) == outcomes
    assert len(server.asked) == 3
    other = rewriter()
    other.name = "another model"
    run(other, again, asked[:1])
    assert len(server.asked) == 4
    again.close()


def test_a_new_prompt_asks_anew(server: Server, rewriter: Any, cache: RewriteCache, monkeypatch: Any) -> None:
    run(rewriter(), cache, requests(1))
    monkeypatch.setattr(rewriting, "PROMPT_VERSION", 999)
    run(rewriter(), cache, requests(1))
    assert len(server.asked) == 2


def test_a_cache_that_was_torn_or_damaged_goes_on(server: Server, rewriter: Any, tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    cache = RewriteCache(path)
    run(rewriter(), cache, requests(3))
    cache.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + lines[1] + lines[2][: len(lines[2]) // 2])
    torn = RewriteCache(path)
    assert len(torn) == 2
    assert [text for text, _ in run(rewriter(), torn, requests(3))] == ["Said: a000", "Said: a001", "Said: a002"]
    torn.close()
    assert len(server.asked) == 4
    assert path.read_bytes().endswith(lines[2])
    whole = RewriteCache(path)
    assert len(whole) == 3
    whole.close()


def test_what_was_answered_before_a_kill_is_kept(server: Server, rewriter: Any, tmp_path: Path) -> None:
    def script(number: int, prompt: str) -> Reply:
        return (200, completion("Fine.")) if number < 2 else (401, {"error": {"message": "key expired"}})

    server.script = script
    cache = RewriteCache(tmp_path / "cache.jsonl")
    with pytest.raises(ConfigError, match="key expired"):
        run(rewriter(), cache, requests(5))
    # Not closed, as after kill -9: what was answered is in the file all the same.
    survivor = RewriteCache(tmp_path / "cache.jsonl")
    assert len(survivor) == 2
    survivor.close()
    cache.close()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_troubles_are_tried_again(server: Server, rewriter: Any, cache: RewriteCache, status: int) -> None:
    server.script = lambda number, prompt: (status, {}) if number < 2 else (200, completion("Fine."))
    assert run(rewriter(retries=2), cache, requests(1)) == [("Fine.", "")]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((429, {"error": {"message": "slow down"}}), "slow down"),
        ((400, {"error": {"message": "content filter"}}), "content filter"),
        ((200, b"<html>no json"), "endpoint"),
        ((200, {"choices": []}), "holds no choices"),
        ((200, {"error": "none"}), "holds no choices"),
        ((200, completion("")), "is empty"),
        ((200, completion(None)), "is empty"),
        ((200, completion("Half a sent", "length")), "cut off"),
    ],
)
def test_lasting_troubles_become_reasons(
    server: Server, rewriter: Any, cache: RewriteCache, reply: Reply, reason: str
) -> None:
    server.script = lambda number, prompt: reply if "a000" in prompt else (200, completion("Fine."))
    (failed, fine) = run(rewriter(retries=1), cache, requests(2))
    assert failed[0] is None
    assert reason in failed[1]
    assert fine == ("Fine.", "")
    assert len(cache) == 1


def test_a_server_that_is_too_slow(server: Server, rewriter: Any, cache: RewriteCache) -> None:
    def script(number: int, prompt: str) -> Reply:
        time.sleep(0.5)
        return 200, completion("Late.")

    server.script = script
    ((text, error),) = run(rewriter(timeout_s=0.1, retries=0), cache, requests(1))
    assert text is None
    assert "timed out" in error.lower()


@pytest.mark.parametrize(("status", "word"), [(401, "key"), (403, "country"), (404, "model")])
def test_what_no_other_request_would_mend_stops(
    server: Server, rewriter: Any, cache: RewriteCache, status: int, word: str
) -> None:
    server.script = lambda number, prompt: (status, {"error": {"message": f"bad {word}"}})
    with pytest.raises(ConfigError, match=f"bad {word}") as caught:
        run(rewriter(), cache, requests(9))
    assert "--model" in caught.value.hint
    assert len(server.asked) < 9


def test_a_server_that_is_down_stops_the_run(server: Server, rewriter: Any, cache: RewriteCache) -> None:
    server.script = lambda number, prompt: (500, {})
    with pytest.raises(ConfigError, match="failed 20 times in a row"):
        run(rewriter(retries=0), cache, requests(40))
    assert len(server.asked) < 30


def test_requests_run_beside_each_other_and_come_back_in_order(
    server: Server, rewriter: Any, cache: RewriteCache
) -> None:
    def script(number: int, prompt: str) -> Reply:
        time.sleep(0.05 if number % 3 else 0.1)
        return 200, completion(f"Said: {prompt[-4:]}")

    server.script = script
    outcomes = run(rewriter(concurrency=4), cache, requests(12))
    assert [text for text, _ in outcomes] == [f"Said: a{i:03d}" for i in range(12)]
    assert 2 <= server.most_under_way <= 4


class Scripted(Rewriter):
    """Answers from a table."""

    name, window = "scripted", 2

    def __init__(self, answers: dict[str, Outcome]) -> None:
        self.answers, self.asked = answers, list[str]()

    def run(self, requests: Any, done: Callable[[int, Outcome], None]) -> None:
        for index, request in enumerate(requests):
            self.asked.append(request.answer)
            done(index, self.answers[request.answer])


CODE, LONG = "```\nx\n```", "word " * 200


@pytest.mark.parametrize(("mode", "asked"), [("all", ["Yes.", CODE, LONG]), ("failing", [CODE, LONG])])
def test_the_cleaner_rewrites_and_checks_again(
    cache: RewriteCache, mode: Any, asked: list[str], tmp_path: Path
) -> None:
    scripted = Scripted({"Yes.": ("Yes, **2** of them.", ""), CODE: (CODE + "!", ""), LONG: (None, "too busy")})
    answers = ["Yes.", CODE, LONG, "..."]
    rows = [Row(id=name, question_text=f"Q {name}?", answer_text=a) for name, a in zip("abcd", answers, strict=True)]
    rows[0] = replace(rows[0], answer_audio=tmp_path / "a.wav")
    cleaner = Cleaner(Rules(), RewriteStep(scripted, cache, mode))
    first, *others = cleaner.clean(rows)
    assert scripted.asked == asked
    assert isinstance(first, Row)
    assert first.answer_text == ("Yes, two of them." if mode == "all" else "Yes.")
    assert (first.answer_audio is None) == (mode == "all")
    faults = [(other.fault.rule, other.fault.reason) for other in others if isinstance(other, Dropped)]
    assert faults[0][0] == "code"
    assert faults[0][1].startswith("rewritten answer: ")
    assert faults[1] == ("rewrite", "too busy")
    assert faults[2][0] == "empty"
    assert cleaner.tally.rewritten == (1 if mode == "all" else 0)


def test_the_command_resumes_from_its_cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "mine")
    server.script = lambda number, prompt: (200, completion("It is about 3 km."))
    write_lines(
        tmp_path / "in.jsonl", [{"question_text": f"How far is {n}?", "answer_text": "**3 km**"} for n in "abc"]
    )
    arguments = ["data", "clean", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--rewrite", "all"]
    arguments += ["--endpoint", server.url, "--model", "m", "--key-env", "MY_KEY"]
    for asked, found in ((3, 0), (0, 3)):
        result = CliRunner().invoke(build_app(), arguments)
        assert result.exit_code == 0, result.output
        assert f"3 answers rewritten: {asked} asked, {found} from" in result.output
    assert set(server.keys) == {"Bearer mine"}
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(lines[2]) == {"question_text": "How far is c?", "answer_text": "It is about three kilometers."}
    assert (tmp_path / "out.rewrites.jsonl").is_file()


def test_a_key_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_KEY is not set"):
        read_key("NO_KEY", "leave it out")
    assert read_key(None, "") is None


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match="needs the package openai") as caught:
        EndpointRewriter("http://x", "m", None)
    assert "anytalk[rewrite]" in caught.value.hint


def test_a_talker_rewrites_with_its_own_language_model(tmp_path: Path, cache: RewriteCache) -> None:
    rewriter = TalkerRewriter(tiny_talker(tmp_path / "talker"), max_tokens=4, batch_size=2)
    outcomes = run(rewriter, cache, requests(3))
    assert len(outcomes) == 3
    assert all(text or error for text, error in outcomes)
    assert run(rewriter, cache, requests(3)) == outcomes
    assert rewriter.name != TalkerRewriter(tiny_talker(tmp_path / "b"), max_tokens=5).name
