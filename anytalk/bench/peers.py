"""Compares the decoder with llama.cpp's: same GGUF file, prompt and threads, in alternating rounds."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from anytalk.decode.ready import CALIBRATION_TEXT, make_talker_ready
from anytalk.errors import ConfigError
from anytalk.grid.chat import encode_chat
from anytalk.model.attach import attach
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import ServedBackbone, TextRequest, TextTokenizer
from anytalk.plugins.omp import surroundings
from anytalk.plugins.registry import default_registry
from anytalk.plugins.sources import ModelSource

PEER = "xllamacpp"
"""The package that contains llama.cpp, compiled for CPUs."""
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Round:
    """Holds the times of one prompt and one greedy answer. Processor time is summed over all threads."""

    prompt_ms: float  # until the first token is chosen
    token_ms: float  # mean of the tokens after the first
    prompt_processor_ms: float | None  # None: it can't be seen from here
    token_processor_ms: float | None
    tokens: tuple[int, ...]


class Contestant(Protocol):
    """Reads prompts and generates tokens, as one side of the comparison."""

    def write(self, prompt: Sequence[int], num_tokens: int) -> Round:
        """Read a prompt without any cached prefix and generate `num_tokens` tokens, ignoring end tokens."""


class Ours:
    """Decodes with a backbone of anytalk, text only.

    Args:
        model: A model as `anytalk attach` takes it.
        folder: Folder in which a talker may be written.
        arithmetic: See :func:`anytalk.decode.ready.make_talker_ready`.
    """

    def __init__(self, model: str, folder: Path, arithmetic: str) -> None:
        talker = attach(model, folder / "talker", assignments=["encoder=null", 'codec={"name": "tiny"}'])
        self._backbone = make_talker_ready(talker, arithmetic).model.backbone
        self.tokenizer = self._backbone.tokenizer

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], num_tokens: int) -> Round:
        backbone, ids = self._backbone, torch.tensor([list(prompt)])
        cache, tokens = backbone.new_cache(1, len(prompt) + num_tokens), []
        clocks = [(time.perf_counter(), time.process_time())]
        for _ in range(num_tokens):
            states = backbone(backbone.embed_text(ids), cache)
            tokens.append(int(backbone.text_logits(states.normed[:, -1:])[0, 0].argmax()))
            ids = torch.tensor([tokens[-1:]])
            clocks.append((time.perf_counter(), time.process_time()))
        # The first clock is before the prompt, the second after the first token.
        wall, processor = ([clock[i] * 1000 for clock in clocks] for i in (0, 1))
        return Round(
            prompt_ms=wall[1] - wall[0],
            token_ms=(wall[-1] - wall[1]) / (num_tokens - 1),
            prompt_processor_ms=processor[1] - processor[0],
            token_processor_ms=(processor[-1] - processor[1]) / (num_tokens - 1),
            tokens=tuple(tokens),
        )


_SERVER = """
import json, sys, time, urllib.request
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), 1
params.port, params.hostnames = 0, ["127.0.0.1"]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(params)
address = server.listening_address + "/completion"
print("ANSWER", json.dumps(xllamacpp.get_system_info()), flush=True)

def ask(prompt, count):
    body = {"prompt": prompt, "n_predict": count, "ignore_eos": True, "cache_prompt": False, "return_tokens": True}
    data = json.dumps({**body, "temperature": 0}).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    began = time.process_time()
    answer = json.load(urllib.request.urlopen(request))
    return answer, (time.process_time() - began) * 1000

for line in sys.stdin:
    asked = json.loads(line)
    _, first = ask(asked["prompt"], 1)
    answer, whole = ask(asked["prompt"], asked["count"])
    told = {"timings": answer["timings"], "tokens": answer["tokens"], "first": first, "whole": whole}
    print("ANSWER", json.dumps(told), flush=True)
"""


class LlamaCpp:
    """Decodes with llama.cpp in a separate process; use it in a ``with`` statement.

    Args:
        file: The GGUF file.
        positions: The most tokens that prompt and answer have together.
        threads: CPU threads.

    Attributes:
        system: The processor features that llama.cpp says it was compiled for.

    Raises:
        ConfigError: llama.cpp can't read the file.
    """

    def __init__(self, file: Path, positions: int, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(file), str(positions), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=surroundings(),
            text=True,
        )
        self.system = str(self._answer())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def write(self, prompt: Sequence[int], num_tokens: int) -> Round:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": list(prompt), "count": num_tokens}) + "\n")
        self._process.stdin.flush()
        told: Any = self._answer()
        timings = told["timings"]
        return Round(
            prompt_ms=timings["prompt_ms"],
            # The prompt yields the first token, which is counted without a time of its own.
            token_ms=timings["predicted_ms"] / (num_tokens - 1),
            prompt_processor_ms=told["first"],
            token_processor_ms=(told["whole"] - told["first"]) / (num_tokens - 1),
            tokens=tuple(told["tokens"]),
        )

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # its log is mixed in
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise ConfigError("llama.cpp exited without an answer", "can it read this file? try another GGUF")


class Through:
    """Asks a served backbone a question, and times its text as a talker gets it.

    Args:
        name: The backbone plugin; it has an option ``fields``, as `served` has.
        model: The model, as in its first weight source.
        question: What it is asked; ``write`` must be given :func:`chat_of` of it.
        tokenizer: The model's own tokenizer, for the tokens of what it writes.

    Raises:
        ConfigError: The plugin isn't a served backbone.
        AnytalkError: It can't be built.
    """

    def __init__(self, name: str, model: str, question: str, tokenizer: TextTokenizer) -> None:
        registry = default_registry()
        found = registry.load("backbone", name)
        if not issubclass(found, ServedBackbone):
            raise ConfigError(f"the backbone '{name}' runs in this process", "name one that is served")
        options = {found.Options.weight_sources[0]: model, "fields": {"cache_prompt": False, "ignore_eos": True}}
        self._backbone: ServedBackbone = registry.build("backbone", PartRef(name=name, options=options), BuildContext())
        self._backbone.check()
        self._question, self._tokenizer = question, tokenizer

    def write(self, prompt: Sequence[int], num_tokens: int) -> Round:
        message = {"role": "user", "content": self._question}
        came, text, is_ended, first = threading.Event(), "", False, None
        began = time.perf_counter()
        stream = self._backbone.answer(TextRequest(messages=(message,), max_tokens=num_tokens))
        stream.wake = came.set
        came.set()  # text may have come before there was anybody to wake
        while not is_ended:
            came.wait(_LONGEST_WAIT_S)
            came.clear()
            more, is_ended = stream.take()
            if more and first is None:
                first = time.perf_counter()
            text += more
        ended = time.perf_counter()
        if stream.error is not None:
            raise stream.error
        assert first is not None  # an answer without text is an error
        return Round(
            prompt_ms=(first - began) * 1000,
            token_ms=(ended - first) * 1000 / (num_tokens - 1),
            prompt_processor_ms=None,
            token_processor_ms=None,
            tokens=tuple(self._tokenizer.encode(text)),
        )


def has_peer() -> bool:
    """Return whether llama.cpp is installed."""
    return importlib.util.find_spec(PEER) is not None


def whole_file(source: ModelSource, folder: Path) -> Path:
    """Return a model's GGUF file; a model in several pieces is joined into one in `folder`.

    Raises:
        ConfigError: The model is no GGUF file.
    """
    if not source.is_gguf:
        raise ConfigError(f"'{source.spec}' is not a GGUF file", "give one that both can read: MODEL.gguf")
    return source.joined(folder / "model.gguf")


def prompt_of(tokenizer: Any, num_tokens: int) -> list[int]:
    """Return `num_tokens` tokens of English text."""
    text: list[int] = list(tokenizer.encode(CALIBRATION_TEXT))
    return (text * (1 + num_tokens // len(text)))[:num_tokens]


def chat_of(tokenizer: TextTokenizer, question: str) -> list[int]:
    """Return the tokens of a conversation that consists of one question."""
    parts = encode_chat(tokenizer, [("user", [question])])
    return [token for part in parts if isinstance(part, list) for token in part]


def compare(
    contestants: dict[str, Contestant],
    prompt: Sequence[int],
    num_tokens: int,
    repeats: int,
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Let the contestants decode in alternating rounds, of which the first doesn't count.

    Returns:
        For each contestant: the medians of the times in :class:`Round`; ``rounds``, the ``token_ms`` of each round;
        ``same_tokens``, how many leading tokens equal those of the first contestant.
    """
    rounds: dict[str, list[Round]] = {name: [] for name in contestants}
    for number in range(repeats + 1):
        for name, contestant in contestants.items():
            told(f"round {number} of {repeats}: {name}")
            made = contestant.write(prompt, num_tokens)
            if number:  # the first round only warms up
                rounds[name].append(made)
    first = next(iter(rounds.values()))[0].tokens
    figures = {}
    for name, counted in rounds.items():
        names = ("prompt_ms", "token_ms", "prompt_processor_ms", "token_processor_ms")
        figures[name] = {
            **{figure: _median([getattr(made, figure) for made in counted]) for figure in names},
            "rounds": [made.token_ms for made in counted],
            "same_tokens": _same(first, counted[0].tokens),
        }
    return {"load_average": os.getloadavg()[0], "prompt": len(prompt), "tokens": num_tokens, "of": figures}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    # What is only known as text may be other tokens, and then another number of them.
    pairs = list(zip(one, other, strict=False))
    return next((number for number, (a, b) in enumerate(pairs) if a != b), len(pairs))
