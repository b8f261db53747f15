"""uvicorn's HTTP and WebSocket, with an end for clients that never ask, take nothing, or are gone without a word."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_CLOSE_S = 2.0
"""How long a client has to take the last words."""


class ImpatientHttp(H11Protocol):
    """Gives up connections that wait for their client too long.

    Who takes nothing of an answer would hold its place, and then its connection, for ever.

    Attributes:
        patience_s: For the head of the first request, and for the client to take what waits for it.
    """

    patience_s = 20.0
    _giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Somebody has come; now they have to ask."""
        super().connection_made(transport)
        self.loop.call_later(self.patience_s, self._end_if_nothing_was_asked)

    def pause_writing(self) -> None:
        """More waits for the client than is good; called by the transport."""
        super().pause_writing()
        self._giving_up = self.loop.call_later(self.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        self._keep()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """No other request came; what the last one left unread isn't waited for either."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(_CLOSE_S, self.transport.abort)

    def _keep(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _end_if_nothing_was_asked(self) -> None:
        request: Any = self.cycle
        if request is None and self.transport.get_protocol() is self:  # no WebSocket has taken over
            self.transport.abort()


def http_with_patience(seconds: float) -> type[H11Protocol]:
    """Return the protocol, for ``uvicorn.Config(http=...)``."""
    return type("ImpatientHttp", (ImpatientHttp,), {"patience_s": seconds})


class ImpatientWebSocket(WebSocketsSansIOProtocol):
    """Gives up connections whose client doesn't take what is sent to it.

    An asyncio transport that is closed first sends what it holds; to a client that reads nothing that takes for ever,
    and as long nobody is told that the connection is lost.
    """

    async def run_asgi(self) -> None:
        """Run the application, then end the connection, politely if the client lets us."""
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(_CLOSE_S, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """No answer to a ping: nobody is there."""
        super().keepalive_timeout()
        self.transport.abort()
