"""Serve ``/v1/realtime/client_secrets``, where a server gets a key for one conversation of its web page."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from anytalk.serve.questions import new_id
from anytalk.serve.realtime.session_options import SessionOptions
from anytalk.serve.realtime.updates import told, updated
from anytalk.serve.state import ServerState


class ExpiresAfter(BaseModel):
    """Sets how long a key is valid."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(600, ge=10, le=7_200)


class SecretRequest(BaseModel):
    """Holds a request for a key."""

    expires_after: ExpiresAfter = Field(default_factory=ExpiresAfter)
    session: dict[str, Any] = Field(default_factory=dict)


def first_options(state: ServerState) -> SessionOptions:
    """Return the options of a session before its client changes any."""
    return SessionOptions(model=state.model_name, instructions=state.talker.config.grid.system or "")


def client_secret_routes(state: ServerState) -> APIRouter:
    """Return the endpoint; a connection with the key starts with the session that was given here."""
    router = APIRouter()

    @router.post("/v1/realtime/client_secrets")
    async def client_secrets(wanted: SecretRequest | None = None) -> dict[str, Any]:
        asked = wanted or SecretRequest()
        options, left_out = updated(first_options(state), asked.session, state.talker, state.settings.max_text_chars)
        value, expires_at = state.keys.make(options, asked.expires_after.seconds)
        session = {**options.shown(), "id": new_id("sess"), "object": "realtime.session", "expires_at": expires_at}
        return {"value": value, "expires_at": expires_at, "session": session, **told(left_out)}

    return router
