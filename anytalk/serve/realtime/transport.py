"""Connect a session to its client: messages in both directions, and the end of the connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from anytalk.serve.realtime.outbox import Outbox
from anytalk.serve.settings import ServeSettings


class ClientGoneError(Exception):
    """Signals that the client has ended the connection."""


class Transport(ABC):
    """Connects a session to one client.

    Attributes:
        outbox: Queue of what is sent to the client.
        has_track: Whether the client's sound has a track of its own instead of coming in events.
    """

    outbox: Outbox
    has_track = False

    @abstractmethod
    async def receive(self) -> str | None:
        """Wait for the next message, None for a binary one; ClientGoneError if there are no more."""

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Close the connection, with this close code if it is a WebSocket; does nothing if it is closed."""


class SocketTransport(Transport):
    """Uses a WebSocket that has been accepted."""

    def __init__(self, socket: WebSocket, settings: ServeSettings) -> None:
        self._socket = socket
        self.outbox = Outbox(self._send, settings.max_unsent_bytes, settings.send_timeout_s)

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_text(text)
        except WebSocketDisconnect:
            raise ClientGoneError from None

    async def receive(self) -> str | None:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientGoneError
        text: str | None = message.get("text")
        return text

    async def close(self, code: int, reason: str) -> None:
        if self._socket.application_state is WebSocketState.CONNECTED:
            with suppress(Exception):
                await self._socket.close(code, reason)
