"""What a session needs of the connection to its client: messages in both directions, and its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from anytalk.serve.realtime.outbox import Outbox
from anytalk.serve.settings import ServeSettings


class ClientGoneError(Exception):
    """The client has ended the connection."""


class Transport(ABC):
    """A connection to one client.

    Attributes:
        outbox: What waits to be sent over it.
        has_track: Whether the client's sound comes by a track of its own, and not in events.
    """

    outbox: Outbox
    has_track = False

    @abstractmethod
    async def receive(self) -> str | None:
        """Wait for the next message; None for a binary one (ClientGoneError: none comes any more)."""

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """End the connection, with a WebSocket's close code where it is one; ended ones stay as they are."""


class SocketTransport(Transport):
    """A WebSocket that has been accepted."""

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
