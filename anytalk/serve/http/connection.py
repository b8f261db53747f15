"""Extend uvicorn's HTTP and WebSocket protocols to drop clients that never ask, accept nothing or vanish."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_CLOSE_S = 2.0
"""How long a client may take to receive the last message."""


class ImpatientHttp(H11Protocol):
    """Drops connections that wait too long for their client.

    A client that accepts nothing of its answer would hold its place, and then its connection, forever.

    Attributes:
        patience_s: Longest wait for the head of the first request, and for the client to accept what was sent.
    """

    patience_s = 20.0
    _giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock for the first request."""
        super().connection_made(transport)
        self.loop.call_later(self.patience_s, self._end_if_nothing_was_asked)

    def pause_writing(self) -> None:
        """Start the clock when too much data waits for the client; called by the transport."""
        super().pause_writing()
        self._giving_up = self.loop.call_later(self.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the clock when the client has accepted most of the data."""
        self._keep()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, without waiting for the client to accept the rest of the last answer."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(_CLOSE_S, self.transport.abort)

    def _keep(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _end_if_nothing_was_asked(self) -> None:
        request: Any = self.cycle
        if request is None and self.transport.get_protocol() is self:  # otherwise a WebSocket has taken over
            self.transport.abort()


def http_with_patience(seconds: float) -> type[H11Protocol]:
    """Return the protocol class for ``uvicorn.Config(http=...)``."""
    return type("ImpatientHttp", (ImpatientHttp,), {"patience_s": seconds})


class ImpatientWebSocket(WebSocketsSansIOProtocol):
    """Drops connections whose client doesn't accept what is sent.

    asyncio flushes a transport before it closes it. For a client that reads nothing this takes forever, and until then
    nobody is told that the connection is lost.
    """

    async def run_asgi(self) -> None:
        """Run the application, then close the connection; abort it if the client doesn't accept the last message."""
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(_CLOSE_S, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """Abort the connection if a ping isn't answered."""
        super().keepalive_timeout()
        self.transport.abort()
