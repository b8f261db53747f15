"""Implements ``anytalk bench start``: times commands in fresh processes, up to the first text of an answer."""

from __future__ import annotations

import base64
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from anytalk.errors import ConfigError

SEGMENTS = ("python", "imports", "backbone", "ears", "codec", "other parts", "first question", "other")
"""The segments of the time to the first text."""
_ANYTALK = [sys.executable, "-m", "anytalk"]
_WATCHED = "from anytalk.bench import laps; laps.watch({place!r}, {began!r}); from anytalk.cli import main; main()"
_COLUMNS = 12
"""Maximum length of the answers, because only their beginning is timed."""

Told = Callable[[str], None]


def measure_commands(folder: Path, repeats: int, told: Told) -> dict[str, dict[str, float]]:
    """Time commands that only print something; return medians of wall and processor seconds, by command."""
    found = {}
    for words in (["--help"], ["plugins"], ["info", str(folder)], ["doctor"]):
        told(f"anytalk {words[0]}")
        runs = [_run([*_ANYTALK, *words], {}) for _ in range(repeats)]
        found[words[0]] = {"wall": median(wall for wall, _ in runs), "processor": median(cpu for _, cpu in runs)}
    return found


def measure_answers(
    folder: Path, text: str, question: Path | None, repeats: int, options: Sequence[str], told: Told
) -> dict[str, dict[str, dict[str, float]]]:
    """Time ``anytalk talk`` from its start to the first text.

    Args:
        folder: Talker folder.
        text: A typed question.
        question: A sound file with a spoken question; None skips it.
        repeats: How often each is measured, each time with a new cache folder, first empty and then filled.
        options: More options for ``anytalk talk``.
        told: Called with a description of each measurement when it starts.

    Returns:
        For ``"typed"`` and ``"spoken"``, for ``"first"`` and ``"second"`` (cache empty and filled): the median seconds
        ``"total"``, ``"processor"`` (of the whole process up to then) and each of :data:`SEGMENTS`, in wall time.

    Raises:
        ConfigError: The command failed.
    """
    asked = {"typed": ["--text", text], **({"spoken": [str(question)]} if question is not None else {})}
    found = {}
    for kind, words in asked.items():
        runs: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
        for turn in range(repeats):
            with TemporaryDirectory() as cache:
                for time_, laps in runs.items():
                    told(f"a {kind} question, the {time_} time ({turn + 1} of {repeats})")
                    laps.append(_first_text([str(folder), *words, *options], Path(cache)))
        found[kind] = {
            time_: {name: median(one.get(name, 0.0) for one in laps) for name in ("total", "processor", *SEGMENTS)}
            for time_, laps in runs.items()
        }
    return found


def _first_text(words: Sequence[str], cache: Path) -> dict[str, float]:
    # Beside the cache folder, which has to stay empty until the command runs.
    laps = cache.with_name(f"{cache.name}.laps.json")
    began = time.perf_counter()
    code = _WATCHED.format(place=str(laps), began=began)
    command = [sys.executable, "-c", code, "talk", *words, "--max-columns", str(_COLUMNS)]
    _run(command, {"ANYTALK_CACHE_DIR": str(cache)})
    if not laps.is_file():
        raise ConfigError("the answer had no text, so there is nothing to wait for", "ask another question")
    told = json.loads(laps.read_text(encoding="utf-8"))
    laps.unlink()
    return {"total": told["total"], "processor": told["processor"], **told["segments"]}


def _run(command: Sequence[str], more: dict[str, str]) -> tuple[float, float]:
    """Run a command and return its wall and processor seconds (ConfigError: it failed)."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ConfigError(f"the command that was measured failed: {lines[0]}", lines[-1])
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure_server(folder: Path, text: str, question: Path | None, told: Told) -> dict[str, Any]:
    """Time a server in a fresh process: until it prints its addresses, and until the first sound of its answers.

    Args:
        folder: Talker folder.
        text: A typed question.
        question: A sound file with a spoken question; None skips it.
        told: Called with a description of each measurement when it starts.

    Returns:
        ``"ready"``, and three answers each for ``"typed"`` and ``"spoken"``, which get a server of their own; seconds.
    """
    messages: dict[str, Any] = {"typed": text}
    if question is not None:
        data = base64.b64encode(question.read_bytes()).decode()
        messages["spoken"] = [{"type": "input_audio", "input_audio": {"data": data, "format": question.suffix[1:]}}]
    found: dict[str, Any] = {"ready": []}
    for kind, content in messages.items():
        told(f"a server and its first answers, {kind}")
        began = time.perf_counter()
        with _serving(folder) as address:
            found["ready"].append(time.perf_counter() - began)
            found[kind] = [_first_sound(address, content) for _ in range(3)]
    found["ready"] = median(found["ready"])
    return found


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    with subprocess.Popen(
        [*_ANYTALK, "serve", str(folder), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            lines = [server.stdout.readline() for _ in range(2)]  # the page's address, then that of the API
            if not lines[1]:
                raise ConfigError(
                    f"the server didn't start: {server.stderr.read().strip()}", "run `anytalk serve` to see why"
                )
            yield lines[1].split()[-1]
        finally:
            server.terminate()


def _first_sound(address: str, content: Any) -> float:
    body = {
        "model": "any",
        "messages": [{"role": "user", "content": content}],
        "modalities": ["text", "audio"],
        "audio": {"voice": "default", "format": "pcm16"},
        "stream": True,
        "max_tokens": 40,
    }
    request = urllib.request.Request(
        f"{address}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": "Bearer any"},
    )
    began, first = time.perf_counter(), None
    with urllib.request.urlopen(request, timeout=300) as answer:
        for line in answer:
            if first is None and b'"data"' in line:
                first = time.perf_counter() - began
    if first is None:
        raise ConfigError("the server's answer had no sound", "ask another question")
    return first
