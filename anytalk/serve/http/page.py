"""Serve the web page's files from memory by their exact names; they are read once, when the server starts.

No part of a request is ever used as a path of the file system.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}
"""Media types of the files that are served; files with other suffixes aren't."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; media-src 'self' blob:;"
        " worker-src 'self' blob:; style-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """Holds one file of the page."""

    content: bytes
    media_type: str
    tag: str


def page_files() -> dict[str, PageFile]:
    """Read the packaged files, by their URL paths; ``index.html`` is also ``/``."""
    found: dict[str, PageFile] = {}
    _collect(files("anytalk.serve").joinpath("web"), "/", found)
    if "/index.html" in found:
        found["/"] = found["/index.html"]
    return found


def page_routes(found: dict[str, PageFile]) -> list[Route]:
    """Return a route for each file."""

    def route(path: str, file: PageFile) -> Route:
        async def serve(request: Request) -> Response:
            headers = {**HEADERS, "ETag": file.tag}
            if request.headers.get("if-none-match") == file.tag:
                return Response(status_code=304, headers=headers)
            return Response(file.content, media_type=file.media_type, headers=headers)

        return Route(path, serve, methods=["GET"])

    return [route(path, file) for path, file in found.items()]


def _collect(folder: Traversable, path: str, found: dict[str, PageFile]) -> None:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if entry.is_dir():
            _collect(entry, f"{path}{entry.name}/", found)
        elif suffix in TYPES and "{" not in entry.name:  # a route takes braces for parameters
            content = entry.read_bytes()
            tag = '"' + hashlib.sha256(content).hexdigest()[:16] + '"'
            found[path + entry.name] = PageFile(content, TYPES[suffix], tag)
