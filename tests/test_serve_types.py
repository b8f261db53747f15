"""OpenAI's client may send more with each release: every event and field that its types have is known here."""

from __future__ import annotations

from typing import get_args

import openai.types.realtime as theirs
import pytest
from openai.types.realtime.realtime_audio_input_turn_detection import ServerVad
from pydantic import BaseModel

from anytalk.serve.realtime import events, session_options
from anytalk.serve.realtime.updates import NOT_DONE

PAIRS: list[tuple[type[BaseModel], type[BaseModel]]] = [
    (theirs.RealtimeSessionCreateRequest, session_options.SessionOptions),
    (theirs.RealtimeAudioConfig, session_options.Audio),
    (theirs.RealtimeAudioConfigInput, session_options.AudioInput),
    (theirs.RealtimeAudioConfigOutput, session_options.AudioOutput),
    (theirs.AudioTranscription, session_options.Transcription),
    (ServerVad, session_options.TurnDetection),
    (theirs.RealtimeResponseCreateParams, events.ResponseOptions),
    (theirs.RealtimeResponseCreateAudioOutput, events.AudioChoice),
]


@pytest.mark.parametrize(("client", "ours"), PAIRS, ids=lambda model: model.__name__)
def test_every_field_of_the_client_is_known(client: type[BaseModel], ours: type[BaseModel]) -> None:
    without_effect = {path[-1] for path in NOT_DONE}
    assert set(client.model_fields) - set(ours.model_fields) <= without_effect


def members(union: object) -> dict[str, type[BaseModel]]:
    """Events by their names."""
    models = get_args(get_args(union)[0])
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in models}


def test_every_event_of_the_client_is_known() -> None:
    known = members(theirs.RealtimeClientEvent)
    assert set(known) == set(events.CLIENT_EVENTS)
    for name, model in known.items():
        assert set(model.model_fields) == set(events.CLIENT_EVENTS[name].model_fields), name
