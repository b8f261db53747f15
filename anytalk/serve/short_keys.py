"""Keep keys that are valid for a few minutes, for web pages that must not get the server's own key."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

PREFIX = "ek_"
_MAX_KEYS = 1_000


class ShortKeys:
    """Maps keys to the values that they were made for; the oldest are dropped if there are too many."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Any]] = OrderedDict()

    def make(self, value: Any, seconds: float) -> tuple[str, int]:
        """Return a new key and its expiry time, in seconds since 1970."""
        key, expires_at = f"{PREFIX}{secrets.token_hex(24)}", int(self._clock() + seconds)
        self._known[_digest(key)] = expires_at, value
        while len(self._known) > _MAX_KEYS:
            self._known.popitem(last=False)
        return key, expires_at

    def find(self, key: str) -> Any:
        """Return the value of a key; None if the key is unknown or has expired."""
        digest = _digest(key)
        expires_at, value = self._known.get(digest, (0.0, None))
        if expires_at <= self._clock():
            self._known.pop(digest, None)
            return None
        return value


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
