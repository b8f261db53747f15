"""Starts llama.cpp's server in a child process, learns its address or why it has none, and ends it."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from anytalk.errors import AnytalkError, ServedError, WeightsError
from anytalk.plugins.sources import ModelSource
from anytalk_backbones.llama_cpp_child import READY

_CHILD = Path(__file__).with_name("llama_cpp_child.py")
_KEPT_LINES = 40
_EXIT_WAIT_S = 0.5
"""A connection may be lost a moment before its process has ended."""
_LOG_PREFIX = re.compile(r"^[\d.]+ E +")
_SURROUNDINGS = {"GOMP_SPINCOUNT": "1000", "GGML_NO_BACKTRACE": "1"}
"""Its threads share the cores with those that speak. Threads that wait busily for long keep the others, for which they
wait, from running: on a busy machine some tokens took a hundred times as long. Threads that sleep at once wake too late
between the many small operations of a token. And a debugger's report would hide the cause of an abort."""
_SMALLER = "give it a smaller file, or a shorter context: backbone.options.context in talker.yaml"


class LlamaProcess:
    """Runs llama.cpp in a child process, which ends with this object, with this process, or when it is killed.

    Args:
        source: A GGUF file, whole or in pieces.
        context: Tokens of prompts and answers that are kept at the same time.
        threads: CPU threads.

    Attributes:
        key: The key that its requests must carry.
        address: Resolves to the server's address when the model is loaded; WeightsError if it can't be.
    """

    def __init__(self, source: ModelSource, context: int, threads: int) -> None:
        self.key = secrets.token_urlsafe(24)
        self.address: Future[str] = Future()
        # Several questions wait for it: one that stops waiting must not cancel it for the others.
        self.address.set_running_or_notify_cancel()
        self._name = source.spec
        self._log: deque[str] = deque(maxlen=_KEPT_LINES)
        # Its files may go when the process has ended.
        files = ExitStack()
        try:
            path, passed = _whole(source, files)
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=passed,
                env=_SURROUNDINGS | os.environ,
            )
        except OSError as error:
            files.close()
            raise WeightsError(f"llama.cpp can't be started with '{source.spec}': {error}", _SMALLER) from None
        for descriptor in passed:
            os.close(descriptor)
        asked = {"file": path, "context": context, "threads": threads, "key": self.key}
        # The thread mustn't keep this object alive, or nothing would end the process.
        self._reading = threading.Thread(
            target=_read, args=(self._process, self._name, self.address, self._log), daemon=True, name="llama.cpp"
        )
        self._end = weakref.finalize(self, _end, self._process, self._reading, files, os.getpid())
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already; its output says why
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
        self._reading.start()

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    def has_ended(self, patience_s: float = 0.0) -> bool:
        """Return whether the process has ended, or ends within `patience_s`."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def why_lost(self) -> AnytalkError | None:
        """Return why its connection was lost if that is because the process has ended, else None."""
        if not self.has_ended(_EXIT_WAIT_S):
            return None
        # The last lines, which say why, may not have been read yet.
        self._reading.join(_EXIT_WAIT_S)
        return _why_ended(self._name, self._process.returncode, self._log, was_ready=True)

    def end(self) -> None:
        """End the process, if that hasn't happened yet."""
        self._end()


def _whole(source: ModelSource, files: ExitStack) -> tuple[str, tuple[int, ...]]:
    """Return a path of the whole file for the child, and the descriptors that it must inherit for that.

    Pieces are joined in memory where the system can do that, so that no crash leaves a file behind.
    """
    if len(source.paths) == 1:
        return str(source.path), ()
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("model.gguf")
        path = f"/proc/self/fd/{descriptor}"
        try:
            source.joined(Path(path))
        except OSError:
            os.close(descriptor)
            raise
        return path, (descriptor,)
    place = files.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))
    return str(source.joined(Path(place) / "model.gguf")), ()


def _read(process: subprocess.Popen[bytes], name: str, address: Future[str], log: deque[str]) -> None:
    """Read the child's output until its end: its address first, then its log, of which the last lines are kept."""
    assert process.stdout is not None
    with process.stdout:
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if line.startswith(READY) and not address.done():
                address.set_result(line.removeprefix(READY))
            elif line:
                log.append(line)
    code = process.wait()
    if not address.done():
        address.set_exception(_why_ended(name, code, log, was_ready=False))


def _why_ended(name: str, code: int, log: Iterable[str], was_ready: bool) -> AnytalkError:
    """Return why a child with this exit code and log has ended: ServedError if it was ready, else WeightsError."""
    lines = list(log)
    errors = [_LOG_PREFIX.sub("", line) for line in lines if _LOG_PREFIX.match(line)]
    # The first error is the cause of the others, unless the process was stopped in the middle of its work.
    cause = (errors[-1 if was_ready else 0] if errors else lines[-1] if lines else "").rpartition(
        "error loading model: "
    )[2]
    hint = "ask again: it is started anew" if was_ready else "download the file again, or try another .gguf file"
    if code == -9:
        cause, hint = "it was killed (signal 9), as systems do when memory is short", _SMALLER
    elif "alloc" in cause:
        hint = _SMALLER
    elif "unknown model architecture" in cause:
        hint = "a newer one may know it: pip install --upgrade xllamacpp"
    elif code < 0:
        cause = f"signal {-code}" + (f": {cause}" if cause else "")
    cause = " ".join((cause or f"exit status {code}").split())[:300]
    if was_ready:
        return ServedError(f"llama.cpp stopped while it ran '{name}': {cause}", hint)
    return WeightsError(f"llama.cpp can't load '{name}': {cause}", hint)


def _end(process: subprocess.Popen[bytes], reading: threading.Thread, files: ExitStack, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the process that started it
        return
    process.kill()
    process.wait()
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # what it was told was never read
        process.stdin.close()
    if reading.ident is not None and reading is not threading.current_thread():
        reading.join()
    files.close()
