"""Inputs by seeded mutation of valid ones, and the search for those that are answered by anything but a sentence."""

from __future__ import annotations

import copy
import json
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anytalk.errors import AnytalkError

LONGEST_CPU_S = 10.0
"""That one input may take of the processor."""
MOST_BYTES = 2 << 30
"""By which the address space may grow while inputs are tried."""

_NUMBERS = (0, 1, -1, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_ODD_TEXTS = (
    "",
    " ",
    "\0",
    "\ud83d",
    "\U0001f600",
    "\u202eabc",
    "<|im_end|>",
    "</think>",
    "x" * 5_000,
    "../../etc/passwd",
    "null",
    "NaN",
    "1e400",
    "\r\n",
    "{{",
    "{% for",
    "\ufeff",
)
_ODD_VALUES: tuple[Any, ...] = (
    *_ODD_TEXTS,
    *_NUMBERS,
    None,
    True,
    False,
    1.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [None],
    [[]],
    {"": None},
    [1, "a", None],
)


@dataclass(frozen=True)
class Kind:
    """A kind of input: how its inputs are made, and what the program does with one."""

    name: str
    seeds: Sequence[Any]  # valid inputs: bytes, or JSON values
    mutate: Callable[[random.Random, Sequence[Any]], Any]
    attempt: Callable[[Any], None]  # an AnytalkError is an answer, any other exception a fault


@dataclass
class Found:
    """What a search has found."""

    tried: Counter[str] = field(default_factory=Counter)  # inputs by kind
    accepted: Counter[str] = field(default_factory=Counter)  # of them without an error
    faults: dict[str, tuple[str, Any, str]] = field(default_factory=dict)  # kind, first input, traceback; by signature
    counts: Counter[str] = field(default_factory=Counter)  # inputs by signature


class TooLongError(BaseException):
    """An input has used up its time. No code under test catches it as an error of its own."""


class NotASentenceError(Exception):
    """An input was answered, and by words that are no sentence for a user."""


def search(kind: Kind, seed: int, until: Callable[[int], bool], found: Found, on_input: Any = None) -> None:
    """Try inputs until `until`, told how many there were, says so; the same seed tries the same inputs.

    Args:
        on_input: Called with each input before it is tried.
    """
    number = 0
    while not until(number):
        given = kind.mutate(random.Random(f"{kind.name} {seed} {number}"), kind.seeds)
        if on_input is not None:
            on_input(given)
        found.tried[kind.name] += 1
        try:
            with _limited(), _nothing_ignored():
                kind.attempt(given)
            found.accepted[kind.name] += 1
        except AnytalkError as error:
            if not error.message.strip():
                _note(found, kind, given, NotASentenceError("an error without words"))
        except (Exception, TooLongError) as error:
            _note(found, kind, given, error)
        number += 1


def _note(found: Found, kind: Kind, given: Any, error: BaseException) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    ours = (
        [frame for frame in frames if "/anytalk" in frame.filename] or frames or [traceback.FrameSummary("?", 0, "?")]
    )
    place = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
    signature = f"{kind.name}: {type(error).__name__} in {place}"
    if isinstance(error, NotASentenceError):
        signature += f": {str(error)[:60]}"
    found.counts[signature] += 1
    shown = "".join(traceback.format_exception(error))
    found.faults.setdefault(signature, (kind.name, copy.deepcopy(given), shown))


@contextmanager
def _limited() -> Iterator[None]:
    """End what takes too long of the processor's time, whatever else runs on the machine."""

    def ring(*_: object) -> None:
        raise TooLongError(f"more than {LONGEST_CPU_S:.0f} s of the processor")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_CPU_S, 1.0)  # again: the first may be swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _nothing_ignored() -> Iterator[None]:
    """Raise warnings, and what was raised where nobody could catch it: both would be printed on the user's terminal."""
    ignored: list[BaseException] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda found: ignored.append(found.exc_value or RuntimeError(str(found.err_msg)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        sys.unraisablehook = before
    if ignored:
        raise ignored[0]


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Let what asks for more than :data:`MOST_BYTES` fail with a MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def for_seconds(seconds: float, at_least: int = 1) -> Callable[[int], bool]:
    """Say when a search has lasted so long."""
    end = time.monotonic() + seconds
    return lambda number: number >= at_least and time.monotonic() > end


# ---- mutations


def mutate_bytes(draw: random.Random, seeds: Sequence[bytes], head: int | None = None) -> bytes:
    """Change a valid input in one to six places; `head`: only so many of its first bytes, its end apart."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        room = len(data) if head is None or draw.random() < 0.1 else min(head, len(data))
        at = draw.randrange(room + 1)
        size = draw.choice((1, 2, 4, 8))
        how = draw.randrange(8)
        if how == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif how in (1, 2):
            order = draw.choice(("little", "big"))
            number = draw.choice(_NUMBERS) % (1 << 8 * size)
            data[at : at + size] = number.to_bytes(size, order)  # type: ignore[arg-type]
        elif how == 3:
            data[at : at + size] = draw.randbytes(size)
        elif how == 4:
            del data[at : at + draw.choice((1, 2, 4, 16, 256))]
        elif how == 5:
            piece = data[at : at + draw.choice((1, 4, 16, 256))]
            data[at:at] = piece * draw.choice((1, 1, 2, 30))
        elif how == 6:
            other = draw.choice(seeds)
            start = draw.randrange(len(other) + 1)
            data[at:at] = other[start : start + draw.choice((4, 32, 512))]
        elif draw.random() < 0.3:
            del data[at:]
    return bytes(data[: 1 << 20])


def mutate_text(draw: random.Random, seeds: Sequence[str]) -> str:
    """Change pieces of a text: words and marks are left out, doubled, swapped, or replaced by odd ones."""
    text = draw.choice(seeds)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, other = draw.randrange(len(text) + 1), draw.choice(seeds)
        size, how = draw.choice((1, 3, 12, 40)), draw.randrange(5)
        if how == 0:
            text = text[:at] + text[at + size :]
        elif how == 1:
            text = text[: at + size] + text[at:]
        elif how == 2:
            start = draw.randrange(len(other) + 1)
            text = text[:at] + other[start : start + size] + text[at:]
        elif how == 3:
            text = text[:at] + draw.choice(_ODD_TEXTS[:-1]) + text[at:]
        else:
            text = (
                text[:at] + draw.choice(("'", '"', "{", "}", "%", "[", "]", "|", ".", "-", "0", " ")) + text[at + 1 :]
            )
    return text


def mutate_json(draw: random.Random, seeds: Sequence[Any]) -> Any:
    """Change a JSON value in one to four places: values, names, what is there at all."""
    value = copy.deepcopy(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 4))):
        value = _changed(draw, value, seeds)
    return value


def _changed(draw: random.Random, value: Any, seeds: Sequence[Any]) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        how = draw.randrange(8)
        if how == 0:
            del value[name]
        elif how == 1:
            value[draw.choice(_ODD_TEXTS[:10])] = value[name]
        elif how == 2:
            other = draw.choice(seeds)
            if isinstance(other, dict) and other:
                taken = draw.choice(list(other))
                value[taken] = copy.deepcopy(other[taken])
        else:
            value[name] = _changed(draw, value[name], seeds)
        return value
    if isinstance(value, list) and value and draw.random() < 0.9:
        at, how = draw.randrange(len(value)), draw.randrange(6)
        if how == 0:
            del value[at]
        elif how == 1:
            value.insert(at, copy.deepcopy(value[at]))
        else:
            value[at] = _changed(draw, value[at], seeds)
        return value
    if isinstance(value, str) and draw.random() < 0.4:
        at = draw.randrange(len(value) + 1)
        return value[:at] + draw.choice(_ODD_TEXTS) + value[at:]
    if draw.random() < 0.05:
        nested: Any = draw.choice(_ODD_VALUES)
        for _ in range(draw.choice((3, 150))):
            nested = [nested] if draw.random() < 0.5 else {"a": nested}
        return nested
    return copy.deepcopy(draw.choice(_ODD_VALUES))


def as_json(value: Any) -> str:
    """Write JSON of any depth, half surrogates as escapes."""
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 100_000
