"""Read the messages of a chat completion: text, sound, earlier answers, function calls and their results."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from anytalk.decode.jobs import Said
from anytalk.grid.tools import Call
from anytalk.serve.calling import NO_TOOLS, call_of
from anytalk.serve.errors import RequestError, check_characters
from anytalk.serve.http.files_out import read_sound
from anytalk.serve.questions import SILENCE, check_unheard, from_base64, speech_of, with_instructions
from anytalk.serve.state import ServerState

_KEPT_ANSWERS = 1_000  # transcripts of spoken answers; older ones have to be sent as text


class ChatAnswers:
    """Keeps the transcripts of spoken answers by id, because clients may send the id in their next request."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()

    def keep(self, answer_id: str, text: str) -> None:
        """Keep a transcript, and drop the oldest if there are too many."""
        self._texts[answer_id] = text
        while len(self._texts) > _KEPT_ANSWERS:
            self._texts.popitem(last=False)

    def text(self, answer_id: str) -> str:
        """Return a transcript; RequestError if it is unknown."""
        if answer_id not in self._texts:
            said = f"no answer '{answer_id[:80]}' is known, or it was dropped; send its text as content"
            raise RequestError(said, "audio_not_found", "messages")
        return self._texts[answer_id]


def read_turns(messages: list[dict[str, Any]], state: ServerState, known: ChatAnswers) -> list[Said]:
    """Convert messages to turns that end with the user's; RequestError for content that can't be used.

    Models need a last turn of the user. If the messages end with instructions, these become that turn; if they end with
    an answer, a silent turn is added.
    """
    turns: list[Said] = []
    for number, message in enumerate(messages):
        param, role = f"messages[{number}]", message.get("role")
        if role not in ("user", "assistant", "system", "developer", "tool"):
            said = f"role is {str(role)[:40]!r}; expected user, assistant, system or tool"
            raise RequestError(said, param=f"{param}.role")
        if role == "tool" or message.get("tool_calls"):
            _add_tool_message(turns, messages, number, state)
            continue
        earlier = message.get("audio")
        if role == "assistant" and isinstance(earlier, dict) and not message.get("content"):
            turns.append(Said("assistant", known.text(str(earlier.get("id")))))
            continue
        texts, speech = _content(message.get("content"), role, state, f"{param}.content")
        # A turn is either text or speech, so text that comes with speech becomes a turn of its own.
        if speech is not None and any(text.strip() for text in texts):
            turns.append(Said("user", "\n".join(texts)))
        if speech is not None:
            turns.append(speech)
            check_unheard(state, turns)
        else:
            text = "\n".join(texts)
            if not text.strip() and role == "user":
                raise RequestError("the message is empty", "invalid_value", f"{param}.content")
            turns.append(Said("system" if role == "developer" else role, text))
    if turns[-1].role == "system":  # such as "greet the user"
        turns[-1] = Said("user", turns[-1].text)
    elif turns[-1].role != "user":
        turns.append(Said("user", SILENCE))
    if sum(len(turn.text or "") for turn in turns) > state.settings.max_text_chars:
        said = f"the messages have more than {state.settings.max_text_chars} characters"
        raise RequestError(said, "string_above_max_length", "messages")
    for turn in turns:
        check_characters(turn.text or "", "messages")
    has_system = any(turn.role == "system" for turn in turns)
    return with_instructions(turns, "" if has_system else state.talker.config.grid.system or "")


def _add_tool_message(turns: list[Said], messages: list[dict[str, Any]], number: int, state: ServerState) -> None:
    """Add function calls as a turn of the assistant, and consecutive results as one turn of the user."""
    message, param = messages[number], f"messages[{number}]"
    if state.spelling is None:
        raise RequestError(NO_TOOLS, "unsupported_value", param)
    if message.get("role") == "assistant":
        texts = [] if not message.get("content") else _content(message["content"], "assistant", state, param)[0]
        calls = [_call(given, param) for given in message["tool_calls"]]
        turns.append(Said("assistant", state.spelling.calls("\n".join(texts), calls)))
    elif number + 1 == len(messages) or messages[number + 1].get("role") != "tool":
        first = number
        while first and messages[first - 1].get("role") == "tool":
            first -= 1
        results = ["\n".join(_content(m.get("content"), "tool", state, param)[0]) for m in messages[first : number + 1]]
        turns.append(Said("user", state.spelling.results(results)))


def _call(given: Any, param: str) -> Call:
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict):
        raise RequestError("a tool call needs a 'function'", "missing_required_parameter", f"{param}.tool_calls")
    return call_of(function.get("name"), function.get("arguments"), f"{param}.tool_calls")


def _content(given: Any, role: str, state: ServerState, param: str) -> tuple[list[str], Said | None]:
    if isinstance(given, str):
        return [given], None
    if not isinstance(given, list) or not given or not all(isinstance(part, dict) for part in given):
        raise RequestError("content must be a text or a list of parts", "missing_required_parameter", param)
    texts: list[str] = []
    speech: Said | None = None
    for number, part in enumerate(given):
        place = f"{param}[{number}]"
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") == "input_audio" and role == "user" and isinstance(part.get("input_audio"), dict):
            if speech is not None:
                raise RequestError("a message can hold only one sound", "unsupported_value", place)
            rate_hz = state.ear_rate_hz
            data = from_base64(str(part["input_audio"].get("data", "")), f"{place}.input_audio.data")
            wave = read_sound(data, "input_audio", rate_hz, state.max_turn_s, f"{place}.input_audio.data")
            speech = Said("user", None, speech_of(wave, rate_hz, rate_hz, state.max_turn_s))
        else:
            kind = str(part.get("type"))[:40]
            raise RequestError(f"a part of the type '{kind}' is not supported", "unsupported_value", place)
    return texts, speech
