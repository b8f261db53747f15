"""Tell clients that ask for an unknown path which path to use instead."""

from __future__ import annotations

REALTIME = "/v1/realtime"
_CHAT = "ask POST /v1/chat/completions"
_SOCKET = "connect a WebSocket to /v1/realtime"
_INSTEAD = {
    "/v1/responses": (
        f"the Responses API is not here; {_CHAT} (in openai-agents: set_default_openai_api('chat_completions'))"
    ),
    "/v1/completions": f"completions without a chat are not here; {_CHAT}",
    "/v1/assistants": f"assistants are not here; {_CHAT}",
    "/v1/embeddings": "embeddings are not made here",
    "/v1/images": "images are not made here",
    "/v1/audio/translations": "speech is not translated here; POST /v1/audio/transcriptions writes it down",
    "/v1/realtime/calls": "POST SDP to /v1/realtime/calls, or to its /ID/hangup; SIP is not answered",
    "/v1/realtime/sessions": "POST /v1/realtime/client_secrets makes keys for web pages",
    "/v1/realtime/transcription_sessions": f"{_SOCKET}, with a session of the type 'transcription'",
    "/v1/realtime/translations": f"speech is not translated here; {_SOCKET}",
    REALTIME: "this path is a WebSocket's; connect with ws:// or wss://",
}


_HERE = ("/v1/audio/speech", "/v1/audio/transcriptions", "/v1/chat/completions", "/v1/models", *_INSTEAD)


def instead_of(path: str) -> str | None:
    """Return a sentence about what to ask for instead of `path`; None if there is no suggestion."""
    plain = path.rstrip("/")
    for other, said in _INSTEAD.items():
        if plain == other or plain.startswith(f"{other}/"):
            return said
    if plain and f"/v1{plain}" in _HERE:
        return f"it is at /v1{plain}: end the client's base_url with /v1"
    return f"it is at {plain}" if plain in _HERE else None
