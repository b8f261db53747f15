"""Checks the promises of :class:`~anytalk.plugins.contracts.ServedBackbone` on one question."""

from __future__ import annotations

import threading
import time
from typing import Any

from anytalk.plugins.contracts import ServedBackbone, TextRequest
from anytalk.plugins.registry import Registry
from anytalk.plugins.testing.options import built

_PATIENCE_S = 60.0


def check_served_backbone(
    name_or_part: str | ServedBackbone, registry: Registry | None = None, options: dict[str, Any] | None = None
) -> None:
    """Check the title, that ``answer`` returns at once and its stream fills later, and that a stream can be closed.

    Args:
        name_or_part: Registered name, or a built backbone; its model must be reachable, and is asked twice.
        registry: Where the name is looked up; default: the installed plugins.
        options: The part's own options.

    Raises:
        AssertionError: a promise is broken.
    """
    part, name = built("backbone", name_or_part, registry, options)
    assert isinstance(part, ServedBackbone), f"{name}: a {type(part).__name__} is not a ServedBackbone"
    assert part.title.strip(), f"{name}: has no title"
    part.check()
    request = TextRequest(messages=({"role": "user", "content": "Say hello."},), max_tokens=16)
    came, before = threading.Event(), time.monotonic()
    stream = part.answer(request)
    # Far longer than sending takes, far shorter than most answers.
    assert time.monotonic() - before < 0.5, f"{name}: answer waits for the text instead of returning at once"
    stream.wake = came.set
    text, is_ended = stream.take()
    while not is_ended:
        assert came.wait(_PATIENCE_S), f"{name}: nothing came for {_PATIENCE_S:g} s, no text and no end"
        came.clear()
        more, is_ended = stream.take()
        text += more
    assert stream.error is None, f"{name}: {stream.error}"
    assert text.strip(), f"{name}: the answer is empty"
    stream = part.answer(request)
    stream.close()
    stream.close()
    assert stream.take()[1], f"{name}: a stream that was closed goes on"
