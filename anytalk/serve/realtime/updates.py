"""Apply the supported fields of a session update, and report which others were left out and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from anytalk.model.talker import Talker
from anytalk.serve.calling import NO_TOOLS, read_tools, spelling_of
from anytalk.serve.errors import RequestError
from anytalk.serve.realtime.session_options import AudioInput, SessionOptions, Transcription

_MAX_FIELDS = 100
_MAX_NAME, _MAX_REASON = 80, 300
Path = tuple[str, ...]
_BRANCHES: tuple[Path, ...] = (
    ("audio",),
    ("audio", "input"),
    ("audio", "output"),
    ("audio", "input", "turn_detection"),
    ("audio", "input", "transcription"),
)
"""Objects of the session whose fields are merged one by one."""
_CAN_BE_OFF = {"turn_detection", "idle_timeout_ms", *AudioInput.model_fields, *Transcription.model_fields} - {"format"}
_MODEL: Path = ("model",)
"""There is one model, so any name is accepted, here and in the address of the connection."""
_DETECTION_TYPE: Path = ("audio", "input", "turn_detection", "type")
_NOT_SEMANTIC = "semantic_vad is not supported; server_vad is used instead"
_KEPT_OF = {"format": ("type", "rate"), "voice": ("id",), "tool_choice": ("type", "name")}
"""Fields to keep of objects that are shown with every update; all others are dropped."""

NOT_DONE: dict[Path, tuple[Callable[[Any], bool], str]] = {
    ("audio", "input", "noise_reduction"): (
        lambda value: value is None,
        "noise is not reduced here; reduce it in the client (browsers do)",
    ),
    ("audio", "input", "turn_detection", "eagerness"): (
        lambda value: value in (None, "auto"),
        "it belongs to semantic_vad; a longer silence_duration_ms waits longer",
    ),
    ("audio", "input", "transcription", "delay"): (
        lambda value: value is None,
        "words are told as soon as they are certain",
    ),
    ("include",): (lambda value: not value, "no log probabilities are given"),
    ("prompt",): (lambda value: value is None, "no prompts are stored here; write it into instructions"),
    ("reasoning",): (lambda value: value is None, "the model doesn't reason before it answers"),
    ("tracing",): (lambda value: value is None, "no traces are kept"),
    ("truncation",): (
        lambda value: value in (None, "auto"),
        "the oldest turns are left out when a prompt grows too long",
    ),
}
"""Maps fields without effect to a test for values that ask for nothing, and to the reason for all other values."""


@dataclass(frozen=True)
class LeftOut:
    """Names a field of an update that was not applied."""

    param: str  # the field, e.g. `session.audio.output.voice`
    reason: str  # the reason, as a sentence

    def shown(self) -> dict[str, str]:
        return {"param": self.param, "reason": self.reason}


def told(left_out: Sequence[LeftOut]) -> dict[str, Any]:
    """Return the fields of an event that report what was left out; {} if nothing was."""
    return {"anytalk": {"left_out": [field.shown() for field in left_out]}} if left_out else {}


def updated(
    options: SessionOptions, changes: dict[str, Any], talker: Talker, max_text_chars: int
) -> tuple[SessionOptions, list[LeftOut]]:
    """Apply a session update field by field, so that one unsupported field doesn't undo the others.

    ``null`` switches off what can be off, and changes nothing elsewhere.

    Returns:
        The new options, and the fields that were left out.

    Raises:
        RequestError: more than 100 fields.
    """
    fields = list(islice(_leaves(changes), _MAX_FIELDS + 1))
    if len(fields) > _MAX_FIELDS:
        raise RequestError(f"the update has more than {_MAX_FIELDS} fields", param="session")
    left_out: list[LeftOut] = []
    for path, value in fields:
        if path == _DETECTION_TYPE and value == "semantic_vad":
            value = "server_vad"
            left_out.append(LeftOut(f"session.{'.'.join(path)}", _NOT_SEMANTIC))
        try:
            options = _applied(options, path, value, talker, max_text_chars)
        except RequestError as error:
            left_out.append(LeftOut(f"session.{'.'.join(path)}"[:_MAX_NAME], error.message[:_MAX_REASON]))
    # A session that only transcribes has nothing else to do, so transcription can't be off.
    if not options.answers and options.audio.input.transcription is None:
        options = options.merged({"audio": {"input": {"transcription": {}}}}, talker, max_text_chars)
    return options, left_out


def _applied(options: SessionOptions, path: Path, value: Any, talker: Talker, max_text_chars: int) -> SessionOptions:
    if path == _MODEL:
        return options
    if path in NOT_DONE:
        asks_nothing, why = NOT_DONE[path]
        if not asks_nothing(value):
            raise RequestError(why, "unsupported_value")
        return options
    if value is None and path[-1] not in _CAN_BE_OFF:
        return options
    if path[-1] in _KEPT_OF and isinstance(value, dict):
        value = {name: value[name] for name in _KEPT_OF[path[-1]] if name in value}
    if path == ("tool_choice",) and (value == "required" or isinstance(value, dict)) and spelling_of(talker) is None:
        raise RequestError(NO_TOOLS, "unsupported_value")
    if path == ("tools",) and value:
        _check_tools(value, talker, max_text_chars)
    changed: Any = value
    for name in reversed(path):
        changed = {name: changed}
    return options.merged(changed, talker, max_text_chars)


def _check_tools(given: Any, talker: Talker, max_text_chars: int) -> None:
    if spelling_of(talker) is None:
        raise RequestError(NO_TOOLS, "unsupported_value")
    if not isinstance(given, list) or len(json.dumps(given)) > max_text_chars:
        raise RequestError(f"tools are a list, written in at most {max_text_chars} characters")
    read_tools(given, "auto", None, "session")


def _leaves(tree: dict[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each field that is applied separately."""
    for name, value in tree.items():
        path = (*above, name)
        if path in _BRANCHES and isinstance(value, dict) and value:
            yield from _leaves(value, path)
        else:
            yield path, value
