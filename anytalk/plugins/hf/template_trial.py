"""Tries chat templates in a process of their own, because strangers wrote them and they may never end."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

CPU_S = 2
"""Of the processor that all renderings of a trial may take; real templates take milliseconds."""
MOST_BYTES = 512 << 20
"""By which memory may grow."""
MOST_CHARACTERS = 200_000
"""That may be written for a few words."""
_WAIT_S = 120.0
"""Until a child is given up: on a busy machine the processor's seconds take long."""
_MEMORY, _LENGTH = 3, 4
_REASONS = {
    _MEMORY: f"takes more than {MOST_BYTES >> 20} MB of memory",
    _LENGTH: f"writes more than {MOST_CHARACTERS:,} characters",
    -signal.SIGXCPU: f"does not come to an end within {CPU_S} s",
    -signal.SIGKILL: f"does not come to an end within {CPU_S} s",
}


def fault_of(render: Callable[[], list[str]]) -> str | None:
    """Say why a template can't be used at all; None where it comes to an end, also by an error of its own.

    One operation of a template may take all memory, or hours, so it is tried in a process that has little of either.
    Where the system can't fork (Windows), it isn't tried.

    Args:
        render: Writes what is asked of the template in all ways that matter.
    """
    if not hasattr(os, "fork"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: the child only runs Python
        child = os.fork()
    if child == 0:
        _try(render)
    try:
        return _REASONS.get(_code_of(child))
    except ChildProcessError:  # the program around us has waited for it
        return None
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def _code_of(child: int) -> int:
    """Wait for the child; 0 for one that takes no time of the processor, but doesn't end either."""
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
    """Render in the child, and end it without anything that belongs to its parent."""
    code = 0
    try:
        _limit()
        if any(len(text) > MOST_CHARACTERS for text in render()):
            code = _LENGTH
    except MemoryError:
        code = _MEMORY
    except BaseException:  # told where the template is used
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
