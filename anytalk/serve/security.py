"""Check hosts, origins, keys, rates and sizes before a request reaches the application.

Browsers let any web page open a WebSocket to this machine, and a page's owner can make a name of their own resolve to
127.0.0.1. Therefore a request from a page must come from a page of this server (or of an allowed origin), and a server
without a key answers only to names of this machine.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anytalk.serve.errors import RequestError
from anytalk.serve.limits import RateLimit, same_key
from anytalk.serve.metrics import Metrics
from anytalk.serve.settings import ServeSettings, is_loopback
from anytalk.serve.short_keys import PREFIX, ShortKeys

KEY_SUBPROTOCOL = "openai-insecure-api-key."
REALTIME_SUBPROTOCOL = "realtime"
CALLS_PATH = "/v1/realtime/calls"
OPEN_PATHS = ("/health",)
"""Paths that need no key, like the page's own files."""


class Gate:
    """Refuses requests that may not enter; an ASGI middleware.

    Args:
        keys: Short keys, which allow the Realtime WebSocket or a call and nothing else.
        page_paths: Paths of the page's files, which need no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeSettings,
        rate: RateLimit,
        metrics: Metrics,
        keys: ShortKeys,
        page_paths: frozenset[str],
    ) -> None:
        self.app, self.settings, self.rate, self.metrics, self.keys = app, settings, rate, metrics, keys
        self.open_paths = page_paths | set(OPEN_PATHS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except RequestError as error:
            self.metrics.refused.labels(error.code).inc()
            await refusal(error)(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            limits = self.settings.max_body_bytes, self.settings.send_timeout_s, self.settings.body_s
            await self.app(scope, _LimitedBody(receive, *limits), send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_place(headers)
        if scope["path"] in self.open_paths and scope["type"] == "http":
            return
        client = scope.get("client")
        self.rate.check(client[0] if client else "unknown")
        if self.settings.api_key is not None and not self._may_enter(scope, given_key(headers), self.settings.api_key):
            raise RequestError(
                "the key is missing or wrong; send 'Authorization: Bearer KEY', or from a browser the subprotocols"
                f" '{REALTIME_SUBPROTOCOL}' and '{KEY_SUBPROTOCOL}KEY'",
                "invalid_api_key",
                status=401,
            )
        length = headers.get("content-length", "0")
        # 20 digits exceed any limit, and int() raises for thousands of digits.
        if not length.isascii() or not length.isdigit() or int(length[:20]) > self.settings.max_body_bytes:
            raise too_large(self.settings.max_body_bytes)

    def _may_enter(self, scope: Scope, given: str, expected: str) -> bool:
        is_realtime = scope["type"] == "websocket" or scope["path"] == CALLS_PATH
        if is_realtime and given.startswith(PREFIX) and self.keys.find(given) is not None:
            return True
        return same_key(given, expected)

    def _check_place(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self.settings.api_key is None and not is_loopback(_name_of(host)):
            raise RequestError(
                f"a server without a key answers to names of this machine only, not to '{host[:80]}'",
                "wrong_host",
                status=403,
            )
        origin = headers.get("origin")
        if origin is None or origin in self.settings.allow_origins or urlsplit(origin).netloc.lower() == host.lower():
            return
        raise RequestError(
            f"pages of '{origin[:80]}' may not use this server; start it with --allow-origin to let them",
            "wrong_origin",
            status=403,
        )


class _LimitedBody:
    """Receives a body; refuses it if it is too large (whatever length was announced), stalls, or takes too long."""

    def __init__(self, receive: Receive, max_bytes: int, patience_s: float, body_s: float) -> None:
        self._receive, self._left, self._max_bytes = receive, max_bytes, max_bytes
        self._patience_s, self._body_s = patience_s, body_s
        self._ends_at: float | None = None
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:  # the only other message is the client's leaving
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._ends_at = self._ends_at or now + self._body_s
        try:
            message = await asyncio.wait_for(self._receive(), min(self._patience_s, self._ends_at - now))
        except TimeoutError:
            said = f"no more of the body arrived for {self._patience_s:.0f} s"
            if self._ends_at - now < self._patience_s:
                said = f"the body took more than {self._body_s:.0f} s"
            # A connection that still owes part of a body can't be used again, so close it.
            raise HTTPException(408, said, {"Connection": "close"}) from None
        self._is_whole = not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            # While FastAPI reads a body, it passes only this kind of exception through.
            error = too_large(self._max_bytes)
            raise HTTPException(error.status, error.message)
        return message


def too_large(max_bytes: int) -> RequestError:
    """Return the error for a body that is too large."""
    return RequestError(f"the body is larger than {max_bytes >> 20} MiB", "request_too_large", status=413)


def refusal(error: RequestError) -> Response:
    """Return an error as OpenAI's JSON; before a WebSocket is accepted, it denies the handshake."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif error.status in (429, 503):
        headers["Retry-After"] = "1"
    content: dict[str, Any] = {"error": error.body()}
    return JSONResponse(content, status_code=error.status, headers=headers)


def chosen_subprotocol(scope: Scope) -> str | None:
    """Return the subprotocol to accept, if the client offers it; never the one that contains the key."""
    return REALTIME_SUBPROTOCOL if REALTIME_SUBPROTOCOL in scope.get("subprotocols", []) else None


def given_key(headers: Headers) -> str:
    """Return the key that a client sends in a header or a subprotocol; "" if there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    offered = (word.strip() for word in headers.get("sec-websocket-protocol", "").split(","))
    return next((word[len(KEY_SUBPROTOCOL) :] for word in offered if word.startswith(KEY_SUBPROTOCOL)), "")


def _name_of(host: str) -> str:
    """Return a host without its port: ``"[::1]:80"`` -> ``"::1"``, ``"localhost:80"`` -> ``"localhost"``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
