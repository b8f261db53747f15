"""uvicorn's WebSocket, with an end for clients that are gone without saying so."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_CLOSE_S = 2.0
"""How long a client has to take the last words."""


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
