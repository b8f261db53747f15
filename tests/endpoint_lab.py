"""A small server that speaks OpenAI's chat completions, well or badly, as a test tells it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Reply:
    """What a script answers one request with."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self.body = body
        self._handler = handler

    def error(self, status: int, message: str, **headers: str) -> None:
        data = json.dumps({"error": {"message": message, "type": "x", "code": "x"}}).encode()
        self._handler.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def begin(self, kind: str = "text/event-stream") -> None:
        self._handler.send_response(200)
        self._handler.send_header("content-type", kind)
        self._handler.send_header("transfer-encoding", "chunked")
        self._handler.end_headers()

    def raw(self, text: str) -> None:
        data = text.encode()
        self._handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self._handler.wfile.flush()

    def event(self, data: Any) -> None:
        self.raw(f"data: {json.dumps(data)}\n\n")

    def text(self, text: str | None, finish: str | None = None, **delta: Any) -> None:
        choice = {"index": 0, "delta": {"content": text, **delta}, "finish_reason": finish}
        self.event({"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]})

    def end(self, finish: str = "stop") -> None:
        self.text(None, finish)
        self.raw("data: [DONE]\n\n")
        self._handler.wfile.write(b"0\r\n\r\n")

    def drop(self) -> None:
        self._handler.close_connection = True
        self._handler.connection.close()

    def say(self, *pieces: str) -> None:
        self.begin()
        for piece in pieces:
            self.text(piece)
        self.end()


Script = Callable[[Reply], None]


class Endpoint:
    """Records what it is asked, and answers by :attr:`script`."""

    def __init__(self) -> None:
        self.script: Script = lambda reply: reply.say("It is ", "nine.")
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.names = ["small", "large"]
        self.hung_up = threading.Event()
        self.url = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                models = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in outer.names]
                data = json.dumps({"object": "list", "data": models}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                data = self.rfile.read(length)
                if len(data) < length:  # the client has gone in the middle of its request
                    self.close_connection = True
                    return
                body = json.loads(data)
                outer.asked.append(body)
                outer.keys.append(self.headers["authorization"])
                try:
                    outer.script(Reply(self, body))
                except OSError:  # the client has gone
                    outer.hung_up.set()
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """An endpoint while the block runs."""
    found = Endpoint()
    server = ThreadingHTTPServer(("127.0.0.1", 0), found.handler())
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def forever(reply: Reply) -> None:
    """Write without an end."""
    reply.begin()
    while True:
        reply.text("and so on ")
        time.sleep(0.002)
