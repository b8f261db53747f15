"""Code of the examples that tests import or run without installing it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@contextmanager
def importable(*folders: str) -> Iterator[None]:
    """Let folders of ``examples/`` be imported from while the block runs."""
    paths = [str(_EXAMPLES / folder) for folder in folders]
    sys.path[:0] = paths
    try:
        yield
    finally:
        for path in paths:
            sys.path.remove(path)


def run_example(script: str, *words: object) -> str:
    """Run a script of ``examples/`` on one thread, which has to end well; return what it prints."""
    done = subprocess.run(
        [sys.executable, str(_EXAMPLES / script), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
