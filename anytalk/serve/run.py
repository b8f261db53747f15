"""Run the application until it is told to stop, and let running answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from types import FrameType
from typing import Any

import uvicorn

from anytalk.serve.http.connection import ImpatientWebSocket, http_with_patience
from anytalk.serve.settings import ServeSettings

_LAST_WORDS_S = 1.0
"""Time to tell clients that their answers were cut off."""


_NO_NEWS = (
    "ASGI callable returned without completing response.",  # an answer was broken off; its reason is logged
    "ASGI callable returned without completing handshake.",  # a WebSocket was refused with an answer
)


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log record of uvicorn is worth keeping; refusals aren't, or strangers could fill the log."""
    return record.getMessage() not in _NO_NEWS


class Server(uvicorn.Server):
    """Runs uvicorn and, after a signal, lets running answers finish."""

    def __init__(self, app: Any, settings: ServeSettings) -> None:
        self._state, self._settings = app.state.server, settings
        self._drains = False
        self._deadline: float | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=http_with_patience(settings.send_timeout_s),
                ws=ImpatientWebSocket,
                ws_max_size=settings.max_frame_bytes,
                ws_ping_interval=settings.send_timeout_s,
                ws_ping_timeout=settings.send_timeout_s,
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=3,
                h11_max_incomplete_event_size=64 << 10,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
                # Trust X-Forwarded-For from these proxies only; otherwise clients could claim any address.
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=list(settings.proxies),
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_news)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain the server after the first signal; stop at once after the second."""
        if self._drains:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self.drain()

    def drain(self) -> None:
        """Accept no more clients; stop when all have left, or after a time limit."""
        self._drains = True
        self._state.admission.is_closed = True

    async def on_tick(self, counter: int) -> bool:
        """Check whether the server can stop; uvicorn calls this ten times a second, and True stops the server."""
        if self._drains:
            now = asyncio.get_running_loop().time()
            self._deadline = self._deadline or now + self._settings.drain_s
            if now > self._deadline:
                self._state.model.end()
            is_late = now > self._deadline + _LAST_WORDS_S
            self.should_exit = self.should_exit or is_late or self._state.admission.taken == 0
        return await super().on_tick(counter)


def run_server(app: Any, settings: ServeSettings, listening: socket.socket) -> None:
    """Serve on a listening socket until a signal comes."""
    server = Server(app, settings)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
