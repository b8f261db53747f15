"""Says how long torch's threads wait busily for the next operation. Imports no torch: it must run before that."""

from __future__ import annotations

import os

_VARIABLE, _TURNS = "GOMP_SPINCOUNT", "1000"


def wait_briefly() -> None:
    """Let threads of libgomp sleep soon after an operation, unless the user has said how long they wait.

    By default they wait for milliseconds, on cores that others need then: ONNX Runtime's threads in the next step, a
    codec, another process. The variable is read once, when torch is imported.
    """
    os.environ.setdefault(_VARIABLE, _TURNS)


def surroundings() -> dict[str, str]:
    """Return the environment for a program that chooses for itself how its threads wait."""
    return {name: value for name, value in os.environ.items() if (name, value) != (_VARIABLE, _TURNS)}
