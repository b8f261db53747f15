"""``null`` in events of the Realtime protocol: off, or as if the field were absent, as OpenAI's documentation says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from talkers import make_talker

from anytalk.serve.realtime.events import EventError, ResponseOptions, read_event
from anytalk.serve.realtime.items import read_item
from anytalk.serve.realtime.session_options import SessionOptions
from anytalk.serve.realtime.updates import updated


def test_null_switches_off_what_can_be_off_and_leaves_the_rest() -> None:
    talker = make_talker()

    def changed(options: SessionOptions, **changes: Any) -> SessionOptions:
        found, left_out = updated(options, changes, talker, 100)
        assert not left_out
        return found

    heard = {"turn_detection": {"threshold": 0.7, "idle_timeout_ms": 5_000}, "transcription": {"model": "whisper-1"}}
    audio = {"input": heard, "output": {"format": {"type": "audio/pcmu"}}}
    first = changed(SessionOptions(model="m"), instructions="Be brief.", max_output_tokens=9, audio=audio)
    names = [name for name in SessionOptions.model_fields if name != "audio"]
    assert changed(first, **dict.fromkeys([*names, "prompt", "tracing", "truncation", "include", "reasoning"])) == first
    detection = dict.fromkeys(["threshold", "type", "create_response", "interrupt_response", "eagerness"])
    parts = {"input": {"format": None, "noise_reduction": None, "turn_detection": detection}}
    assert changed(first, audio={**parts, "output": dict.fromkeys(["format", "voice", "speed"])}) == first
    assert changed(first, audio={"input": None, "output": None}) == changed(first, audio=None) == first
    patient = changed(first, audio={"input": {"turn_detection": {"idle_timeout_ms": None}}}).audio.input.turn_detection
    assert patient is not None
    assert (patient.idle_timeout_ms, patient.threshold) == (None, 0.7)
    off = changed(first, audio={"input": dict.fromkeys(["turn_detection", "transcription"])}).audio.input
    assert off.turn_detection is off.transcription is None


def test_null_is_no_field_in_other_events() -> None:
    wanted = dict.fromkeys(ResponseOptions.model_fields)
    created = json.dumps({"type": "response.create", "event_id": None, "response": wanted})
    assert read_event(created) == read_event('{"type": "response.create", "response": {}}')
    item = dict.fromkeys(["id", "object", "status", "type"]) | {"role": "user"}
    given = read_item({**item, "content": [{"type": "input_text", "text": "hi", "audio": None}]}, None, 10)
    assert given.text == "hi"
    assert given.id.startswith("item_")


@pytest.mark.parametrize("name", ["item.create", "item.delete", "item.truncate"])
def test_null_for_a_field_that_must_be_there_is_refused(name: str) -> None:
    with pytest.raises(EventError, match="item"):
        read_event(json.dumps({"type": f"conversation.{name}", "item": None, "item_id": None}))
