"""Build the web application with all routes of the server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.websockets import WebSocketDisconnect

from anytalk import __version__
from anytalk.model.talker import Talker
from anytalk.serve.errors import RequestError, of_validation
from anytalk.serve.http.chat import chat_routes
from anytalk.serve.http.elsewhere import REALTIME, instead_of
from anytalk.serve.http.page import page_files, page_routes
from anytalk.serve.http.speech import speech_routes
from anytalk.serve.http.transcriptions import transcription_routes
from anytalk.serve.questions import DEFAULT_VOICE
from anytalk.serve.realtime.calls import Calls, call_routes
from anytalk.serve.realtime.client_secrets import client_secret_routes, first_options
from anytalk.serve.realtime.session import TRY_LATER, RealtimeSession
from anytalk.serve.realtime.transport import SocketTransport
from anytalk.serve.security import Gate, chosen_subprotocol, given_key, refusal
from anytalk.serve.settings import ServeSettings
from anytalk.serve.state import ServerState

_CODES = {404: "not_found", 405: "method_not_allowed", 408: "request_timeout", 413: "request_too_large"}


def make_app(talker: Talker, settings: ServeSettings, model_name: str) -> FastAPI:
    """Build the application; its state is ``app.state.server``, and ``/v1/models`` lists the talker as `model_name`."""
    state = ServerState(talker, settings, model_name)
    calls = Calls(state)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.model.start()
        try:
            yield
        finally:
            await calls.close()
            state.model.stop()

    app = FastAPI(
        title="anytalk", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.server = state
    page = page_files()
    app.add_middleware(
        Gate,
        settings=settings,
        rate=state.rate,
        metrics=state.metrics,
        keys=state.keys,
        page_paths=frozenset(page) or frozenset({"/"}),
    )
    if settings.allow_origins:
        # Outside the gate: browsers send preflight requests without a key, and pages must be able to read refusals.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Location"],
        )
    _add_error_handlers(app, state)
    _add_plain_routes(app, state)
    app.include_router(speech_routes(state))
    app.include_router(transcription_routes(state))
    app.include_router(chat_routes(state))
    app.include_router(client_secret_routes(state))
    app.include_router(call_routes(calls))
    app.router.routes.extend(page_routes(page))
    # Without the packaged page, / tells where the API is.
    if "/" not in page:

        @app.get("/")
        async def no_page() -> Response:
            return PlainTextResponse("anytalk serves its API under /v1\n")

    @app.websocket(REALTIME)
    @app.websocket(f"{REALTIME}/")
    async def realtime(socket: WebSocket) -> None:
        await _realtime(state, socket)

    @app.websocket("/{path:path}")
    async def no_socket(socket: WebSocket) -> None:
        said = f"there is no WebSocket at {socket.url.path[:80]}; the Realtime API is at {REALTIME}"
        state.metrics.refused.labels("not_found").inc()
        await socket.send_denial_response(refusal(RequestError(said, "not_found", status=404)))

    return app


async def _realtime(state: ServerState, socket: WebSocket) -> None:
    await socket.accept(subprotocol=chosen_subprotocol(dict(socket.scope)))
    try:
        if "call_id" in socket.query_params:
            said = "a call can't be joined by a WebSocket; send its events over its data channel"
            raise RequestError(said, "unsupported_value", "call_id")
        await state.admission.wait_for_leaving()
        with state.admission.place():
            agreed = state.keys.find(given_key(socket.headers))
            transport = SocketTransport(socket, state.settings)
            await RealtimeSession(state, transport, agreed or first_options(state)).run()
    except RequestError as error:
        # Refuse after the handshake, because clients don't show their users why one was denied.
        state.metrics.refused.labels(error.code).inc()
        with suppress(WebSocketDisconnect):  # the client may have gone already
            await socket.send_json(
                {"type": "error", "event_id": "event_refused", "error": {**error.body(), "event_id": None}}
            )
            await socket.close(TRY_LATER, error.code)


def _add_plain_routes(app: FastAPI, state: ServerState) -> None:
    created = int(time.time())
    model = {"id": state.model_name, "object": "model", "created": created, "owned_by": "anytalk"}
    speakers = state.talker.config.speakers
    model_parts = state.talker.model
    more = {
        "voices": list(speakers) or [DEFAULT_VOICE],
        "hears": model_parts.listener is not None,
        "writes": model_parts.ears is not None,  # whether the ears transcribe spoken questions
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{**model, **more}]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != state.model_name:
            said = f"there is no model '{name[:80]}'; this server has '{state.model_name}'"
            raise RequestError(said, "model_not_found", "model", status=404)
        return {**model, **more}

    @app.get("/health")
    async def health() -> Response:
        going, failed = state.admission.is_closed, state.model.is_ended
        counts = {"sessions": state.admission.taken, "max_sessions": state.admission.places}
        status = "stopping" if going else "failed" if failed else "ok"
        said = {"status": status, "model": state.model_name, **counts}
        return JSONResponse(said, status_code=200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_error_handlers(app: FastAPI, state: ServerState) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        state.metrics.refused.labels(error.code).inc()
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        findings = [{**found, "loc": [part for part in found["loc"] if part != "body"]} for found in error.errors()]
        return refusal(of_validation(findings, "body"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path[:80]
        instead = instead_of(path) if error.status_code == 404 else None
        said = f"{request.method} {path}: {error.detail}{f'; {instead}' if instead else ''}"
        code = _CODES.get(error.status_code, "invalid_request")
        answer = refusal(RequestError(said, code, status=error.status_code))
        answer.headers.update(error.headers or {})
        return answer
