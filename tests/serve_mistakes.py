"""Client events that can't be: what is sent, the error's code, and words of its message."""

from __future__ import annotations

import json
from typing import Any


def event(name: str, **fields: Any) -> str:
    """A client event."""
    return json.dumps({"type": name, **fields})


def update(**session: Any) -> str:
    """A change of the session."""
    return event("session.update", session={"type": "realtime", **session})


def heard(**audio_input: Any) -> str:
    """A change of ``audio.input``."""
    return update(audio={"input": audio_input})


def item(**fields: Any) -> str:
    """A message for the conversation."""
    return event("conversation.item.create", item={"type": "message", **fields})


def said(*parts: dict[str, Any]) -> str:
    """A message of the user."""
    return item(role="user", content=list(parts))


BAD, MISSING, UNSUPPORTED = "invalid_value", "missing_required_parameter", "unsupported_value"
UNKNOWN = "unknown_parameter"
LOST = "item_not_found"
TRUNCATE = "conversation.item.truncate"
MISTAKES: list[tuple[str, str, str]] = [
    ("not json", "invalid_json", ""),
    ("[1]", "invalid_json", ""),
    ("{}", MISSING, "no 'type'"),
    ('{"type": 3}', MISSING, "no 'type'"),
    (event("response.creat"), "unknown_or_invalid_event", "did you mean 'response.create'"),
    (event("session.update"), MISSING, "session"),
    (event("input_audio_buffer.append"), MISSING, "audio"),
    (event("input_audio_buffer.append", audio="%%%"), BAD, "base64"),
    (event("input_audio_buffer.append", audio=None), BAD, "audio"),
    (event("input_audio_buffer.commit", more=1), UNKNOWN, "more"),
    (event("output_audio_buffer.clear"), "unsupported_event", "WebRTC"),
    (event("conversation.item.create", item={"type": "mcp_call"}), UNSUPPORTED, "function_call_output"),
    (event("conversation.item.create", item={"type": "function_call_output"}), MISSING, "needs its text"),
    (event("conversation.item.create", item={"type": "function_call", "call_id": "c"}), BAD, "a call needs a name"),
    (item(role="judge"), BAD, "judge"),
    (item(role=[]), BAD, "expected user, assistant or system"),
    (item(role={}, content=[{"type": "input_text", "text": "x"}]), BAD, "expected user, assistant or system"),
    (said({"type": "input_text", "text": "half \ud83d"}), BAD, "\\ud83d is half of a surrogate pair"),
    (update(instructions="\udc00"), BAD, "\\udc00 is half"),
    (item(role="user", content=[]), MISSING, "parts"),
    (item(role="user", id="", content=[{"type": "input_text", "text": "x"}]), BAD, "64 characters"),
    (said({"type": "input_image"}), BAD, "input_image"),
    (said({"type": "input_text"}), MISSING, "needs its text"),
    (said({"type": "input_text", "text": " "}), BAD, "empty"),
    (said({"type": "input_audio", "audio": 3}), MISSING, "base64"),
    (said({"type": "input_audio", "audio": "AAAAAA=="}), "invalid_audio", "at least 0.1 s"),
    (event(TRUNCATE, item_id="x"), MISSING, "content_index"),
    (event(TRUNCATE, item_id="x", content_index=0, audio_end_ms=-1), BAD, "audio_end_ms"),
    (event(TRUNCATE, item_id="x", content_index=0, audio_end_ms=1), "item_truncate_invalid_item_id", "no item 'x'"),
    (event("conversation.item.delete", item_id="x"), "item_delete_invalid_item_id", ""),
    (event("conversation.item.retrieve", item_id="x"), "item_retrieve_invalid_item_id", ""),
    (event("response.create"), "nothing_to_answer", "response.instructions"),
    (event("response.create", response={"input": [{"type": "item_reference", "id": "x"}]}), LOST, ""),
    (event("response.create", response={"metadata": {"a": "x" * 513}}), BAD, "512 characters"),
    (event("response.cancel"), "response_cancel_not_active", "Cancellation failed"),
]
