"""Code of the examples that tests import without installing it."""

from __future__ import annotations

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
