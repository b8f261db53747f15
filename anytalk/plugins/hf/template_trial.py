"""Tries chat templates in a child process, because a downloaded template may never end."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

CPU_S = 2
"""Processor time that a whole trial may take; real templates take milliseconds."""
MOST_BYTES = 512 << 20
"""How much memory a trial may add to the process."""
MOST_CHARACTERS = 200_000
"""How long a rendered conversation of a few words may be."""
_WAIT_S = 120.0
"""Wall time after which a child is killed; generous, because a busy machine gives it little processor time."""
_MEMORY, _LENGTH = 3, 4
_REASONS = {
    _MEMORY: f"takes more than {MOST_BYTES >> 20} MB of memory",
    _LENGTH: f"writes more than {MOST_CHARACTERS:,} characters",
    -signal.SIGXCPU: f"does not come to an end within {CPU_S} s",
    -signal.SIGKILL: f"does not come to an end within {CPU_S} s",
}


def fault_of(render: Callable[[], list[str]]) -> str | None:
    """Return why a template can't be used; None if rendering ends, even with an error of the template's own.

    A single operation of a template may take all memory or hours, so it runs in a child process with limits on both.
    Systems that can't fork (Windows) skip the trial.

    Args:
        render: Renders the conversations that anytalk asks of the template.
    """
    if not hasattr(os, "fork"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: the child only runs Python
        child = os.fork()
    if child == 0:
        _try(render)
    try:
        return _REASONS.get(_code_of(child))
    except ChildProcessError:  # the host program has already waited for the child
        return None
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def _code_of(child: int) -> int:
    """Wait for the child and return its exit code; 0 if it was killed without using up its processor time."""
    end, pause_s = time.monotonic() + _WAIT_S, 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 0


def _try(render: Callable[[], list[str]]) -> NoReturn:
    """Render in the child, then exit without running the parent's clean-up."""
    code = 0
    try:
        _limit()
        if any(len(text) > MOST_CHARACTERS for text in render()):
            code = _LENGTH
    except MemoryError:
        code = _MEMORY
    except BaseException:  # the parent reports it when it renders
        code = 0
    finally:
        os._exit(code)


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES,) * 2)
