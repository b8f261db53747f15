"""Rewrites answers in the tone of a voice assistant, by an OpenAI-compatible endpoint or by a talker's own backbone.

Rewritten answers are added to a cache file as they arrive, so a run that was killed doesn't ask for them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from anytalk.errors import ConfigError, DataError
from anytalk.plugins.endpoint import in_a_line, is_address, load_openai

if TYPE_CHECKING:
    from anytalk.model.talker import Talker
    from anytalk.text.rules import Fault

PROMPT_VERSION = 1
"""Part of the cache key: raise it whenever the prompt changes."""

INSTRUCTION = (
    "Rewrite the answer as a friendly voice assistant would say it aloud: one to three short sentences of plain "
    "spoken English. Keep the facts. No lists, tables, code, formulas, links, symbols, digits or emoji; write numbers "
    "as words. Reply with the rewritten answer only."
)
"""The model's instruction."""

GIVE_UP_AFTER = 20
"""After this many failures in a row the endpoint counts as down."""

Mode = Literal["all", "failing"]
"""Whether to rewrite all answers, or only those that a rule would drop."""

Outcome = tuple[str | None, str]
"""The rewritten text and "", or None and the reason."""


@dataclass(frozen=True)
class Request:
    """Holds an answer to rewrite, and the question that it answers ("" if that is known only as sound)."""

    question: str
    answer: str

    def prompt(self) -> str:
        question = f"Question: {self.question}\n\n" if self.question else ""
        return f"{question}Answer: {self.answer}"


class Rewriter(ABC):
    """Rewrites answers; a subclass says which model does it."""

    name: str  # part of the cache key, so that another model is asked again
    window: int  # how many requests it works on best at once

    @abstractmethod
    def run(self, requests: Sequence[Request], done: Callable[[int, Outcome], None]) -> None:
        """Rewrite all; call `done` with each request's index and outcome as soon as it is known, from any thread."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Release what it holds, such as connections."""


class RewriteCache:
    """Stores rewrites in a JSONL file that is only appended to, because asking for them again takes time or money.

    A last line that a kill cut off is skipped and overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[bytes, int] = {}
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._read()
        except OSError as error:
            raise DataError(f"'{path}' can't be used as a cache: {error}", "give another file: --cache FILE") from None

    def _read(self) -> None:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                key = str(json.loads(line)["key"])
                self._offsets[bytes.fromhex(key)] = whole
            except (ValueError, KeyError, TypeError):
                pass  # a damaged line is only asked for again
            whole += len(line)
        # Appending after half a line would damage the next one too.
        self._file.truncate(whole)

    @staticmethod
    def key(rewriter_name: str, request: Request) -> bytes:
        """Return a digest of everything that an answer depends on."""
        # JSON, because joined texts could be equal for different parts.
        parts = [rewriter_name, PROMPT_VERSION, INSTRUCTION, request.question, request.answer]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()

    def get(self, key: bytes) -> str | None:
        with self._lock:
            if key not in self._offsets:
                return None
            self._file.seek(self._offsets[key])
            return str(json.loads(self._file.readline())["text"])

    def put(self, key: bytes, text: str) -> None:
        """Store a text; it is written to the file when this returns, so that a kill doesn't lose it."""
        line = json.dumps({"key": key.hex(), "text": text}, ensure_ascii=False) + "\n"
        with self._lock:
            self._offsets[key] = self._file.seek(0, os.SEEK_END)
            self._file.write(line.encode())
            self._file.flush()

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        self._file.close()


class RewriteStep:
    """Runs the cleaner's rewriting step: chooses which answers to rewrite, and asks the cache first."""

    def __init__(self, rewriter: Rewriter, cache: RewriteCache, mode: Mode = "all") -> None:
        self.rewriter, self.cache, self.mode = rewriter, cache, mode
        self.window = rewriter.window
        self.asked, self.found, self._failed_in_row = 0, 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.rewriter.close()
        self.cache.close()

    def wants(self, fault: Fault | None) -> bool:
        """Return whether an answer should be rewritten, given the fault that it would be dropped for."""
        return self.mode == "all" or fault is not None

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        """Return the outcome of each request; nothing that the cache knows, or that occurs twice, is asked for twice.

        Raises:
            ConfigError: the rewriter can't work at all, or failed so often in a row that it seems to be down.
        """
        keys = [self.cache.key(self.rewriter.name, request) for request in requests]
        outcomes: dict[bytes, Outcome] = {}
        for key in keys:
            if (text := self.cache.get(key)) is not None:
                outcomes[key] = (text, "")
        self.found += len(outcomes)
        # dict.fromkeys drops duplicates and keeps the order.
        open_keys = [key for key in dict.fromkeys(keys) if key not in outcomes]
        # Equal requests have equal keys; each is asked once.
        by_key = dict(zip(keys, requests, strict=True))
        self.asked += len(open_keys)

        def done(index: int, outcome: Outcome) -> None:
            text, error = outcome
            outcomes[open_keys[index]] = outcome
            if text is not None:
                self.cache.put(open_keys[index], text)
            self._failed_in_row = 0 if text is not None else self._failed_in_row + 1
            if self._failed_in_row >= GIVE_UP_AFTER:
                raise ConfigError(
                    f"{self.rewriter.name} failed {self._failed_in_row} times in a row; the last time: {error}",
                    "see that it runs, then type the same command again: what was rewritten is kept",
                )

        if open_keys:
            self.rewriter.run([by_key[key] for key in open_keys], done)
        return [outcomes[key] for key in keys]


class EndpointRewriter(Rewriter):
    """Asks any server with OpenAI's chat completions (the package ``openai`` is optional).

    After rate limits (429), server errors and timeouts it tries again, with growing pauses or as the server asks.

    Args:
        url: The base address, e.g. ``http://localhost:8000/v1``.
        key: The API key; None for servers that need none.
        timeout_s: The longest wait for one reply.
    """

    def __init__(
        self, url: str, model: str, key: str | None, concurrency: int = 4, timeout_s: float = 60.0, retries: int = 5
    ) -> None:
        openai = load_openai("--endpoint", "rewrite")
        if not is_address(url):
            raise ConfigError(
                f"'{url}' isn't an address", "give the base of the API: --endpoint http://localhost:8000/v1"
            )
        self._openai: Any = openai
        self.name, self.model, self.window = f"{url} {model}", model, 8 * concurrency
        self._concurrency = concurrency
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout_s, max_retries=retries)

    def run(self, requests: Sequence[Request], done: Callable[[int, Outcome], None]) -> None:
        """Rewrite all, several at once.

        Raises:
            ConfigError: the key, the address or the model is refused, and would be for every other request too.
        """

        def work(index: int) -> None:
            done(index, self._ask(requests[index]))

        with ThreadPoolExecutor(self._concurrency) as pool:
            futures = [pool.submit(work, index) for index in range(len(requests))]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # including Ctrl-C: requests that haven't begun are cancelled
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, request: Request) -> Outcome:
        # These won't go away by asking again, so they end the run.
        refused = (
            self._openai.AuthenticationError,
            self._openai.PermissionDeniedError,
            self._openai.NotFoundError,
        )
        messages: list[Any] = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": request.prompt()},
        ]
        try:
            reply = self._client.chat.completions.create(model=self.model, messages=messages, temperature=0.0)
        except refused as error:
            raise ConfigError(
                f"{self.name} refused: {in_a_line(error)}", "check --endpoint, --model and the API key (--key-env)"
            ) from None
        except (self._openai.OpenAIError, ValueError) as error:  # ValueError: a reply that isn't JSON
            return None, f"the endpoint failed: {in_a_line(error)}"
        return read_reply(reply)

    def close(self) -> None:
        self._client.close()


def read_reply(reply: Any) -> Outcome:
    """Return the text of a chat completion, or what is wrong with it; some servers omit fields."""
    choices = getattr(reply, "choices", None)
    if not choices:
        return None, "the endpoint's reply holds no choices"
    text = getattr(getattr(choices[0], "message", None), "content", None)
    if not isinstance(text, str) or not text.strip():
        return None, "the endpoint's reply is empty"
    # A text that was cut off in the middle of a sentence is worse than none.
    if getattr(choices[0], "finish_reason", None) == "length":
        return None, "the endpoint's reply was cut off"
    return text.strip(), ""


class TalkerRewriter(Rewriter):
    """Asks the talker's own language model, with greedy decoding.

    Args:
        talker: A talker that was loaded without its ears.
    """

    def __init__(self, talker: Talker, max_tokens: int = 192, batch_size: int = 32) -> None:
        from anytalk.plugins.fingerprint import fingerprint

        self._talker, self._max_tokens, self._batch_size = talker, max_tokens, batch_size
        self.name = f"talker {fingerprint(talker.model.backbone)} {max_tokens}"
        self.window = 4 * batch_size

    def run(self, requests: Sequence[Request], done: Callable[[int, Outcome], None]) -> None:
        from anytalk.decode.greedy import greedy_answers

        for first in range(0, len(requests), self._batch_size):
            batch = requests[first : first + self._batch_size]
            asked = [f"{INSTRUCTION}\n\n{request.prompt()}" for request in batch]
            answers = greedy_answers(self._talker, asked, max_tokens=self._max_tokens, batch_size=self._batch_size)
            for place, answer in enumerate(answers):
                done(first + place, (answer, "") if answer.strip() else (None, "the talker said nothing"))
