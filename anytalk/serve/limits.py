"""Limit how much of the server one client, and all of them together, may use."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anytalk.serve.errors import RequestError

_MAX_KNOWN_ADDRESSES = 10_000  # bounds the memory that many addresses can take
_LEAVING_S = 0.5
"""How long a new client waits for a place that is about to become free."""
_LOOK_S = 0.01  # time between two looks


class TokenBucket:
    """Limits a rate: `per_second` on average, and up to `burst` at once."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = per_second, burst, clock
        self._left, self._at = burst, clock()

    def take(self, count: float = 1) -> bool:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < count:
            return False
        self._left -= count
        return True


class RateLimit:
    """Limits the requests of each address; addresses without a request for the longest time are forgotten first."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def check(self, address: str) -> None:
        """Count a request; RequestError if there were too many."""
        burst = max(1.0, self._per_minute / 4)
        bucket = self._buckets.pop(address, None) or TokenBucket(self._per_minute / 60, burst, self._clock)
        self._buckets[address] = bucket
        if len(self._buckets) > _MAX_KNOWN_ADDRESSES:
            self._buckets.popitem(last=False)
        if not bucket.take():
            raise RequestError(
                f"more than {self._per_minute} requests a minute; wait a moment", "rate_limit_exceeded", status=429
            )


class Admission:
    """Limits the number of simultaneous conversations and answers.

    Attributes:
        is_closed: Whether no more places are given, because the server is stopping.
    """

    def __init__(self, places: int) -> None:
        self.places, self.taken, self.is_closed = places, 0, False

    async def wait_for_leaving(self) -> None:
        """Wait briefly for a place if all are taken.

        A client knows that its connection is closed, or its answer complete, slightly before the server frees its
        place. Its own next request must not be refused because of that.
        """
        end = time.monotonic() + _LEAVING_S
        while self.taken >= self.places and not self.is_closed and time.monotonic() < end:
            await asyncio.sleep(_LOOK_S)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place inside a ``with`` block; RequestError if none is left or the server is stopping."""
        if self.is_closed:
            raise RequestError("the server is shutting down", "server_shutting_down", status=503)
        if self.taken >= self.places:
            raise RequestError(
                f"all {self.places} places of this server are taken; try again later",
                "session_limit_reached",
                status=429,
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


def same_key(given: str, expected: str) -> bool:
    """Compare two keys in a time that depends neither on how many characters agree nor on their lengths."""
    mine, theirs = (hashlib.sha256(key.encode()).digest() for key in (given, expected))
    return hmac.compare_digest(mine, theirs)
