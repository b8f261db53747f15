"""Answer with a model that may call functions: its words are spoken, its calls are not."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from anytalk.decode.jobs import Ended, Event, Failed, Question, Said
from anytalk.decode.memory import Memory
from anytalk.decode.telling import AudioDelta, TextDelta
from anytalk.grid.tools import Call, CallReader, ToolSpelling
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import ServedBackbone
from anytalk.serve.errors import RequestError
from anytalk.serve.model_thread import ModelThread

log = logging.getLogger("anytalk.serve")
MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MUST = "Answer by calling one of the functions; write nothing else."
_UNREADABLE = "the model wrote a function call that can't be parsed; ask again"
NO_TOOLS = (
    "this model's chat template doesn't support functions; choose a model whose template does, such as Qwen2.5-Instruct"
)


@dataclass(frozen=True)
class Called:
    """Holds the calls at the end of an answer; it is the last event before `Ended`."""

    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Tools:
    """Describes the functions that a model may call in one answer."""

    functions: tuple[Mapping[str, Any], ...]  # in the form of chat completions
    must: bool = False  # whether the model must call one
    many: bool = True  # whether it may call several at once

    @property
    def names(self) -> list[str]:
        return [function["function"]["name"] for function in self.functions]

    def written(self, spelling: ToolSpelling, system: str) -> str:
        """Return the system message with the functions added."""
        return spelling.system("\n".join(filter(None, [system, _MUST if self.must else ""])), self.functions)


def opening_of(tools: Tools | None, talker: Talker, spelling: ToolSpelling | None) -> tuple[str, tuple[str, ...]]:
    """Return the text that an answer has to begin with to call a function, and the allowed continuations.

    They are empty if no call is required, or if the model is served elsewhere and can only be asked for one.
    """
    if tools is None or not tools.must or spelling is None or isinstance(talker.model.backbone, ServedBackbone):
        return "", ()
    return spelling.opening([one["function"]["name"] for one in tools.functions])


def with_tools(turns: list[Said], tools: Tools, spelling: ToolSpelling) -> list[Said]:
    """Return the turns with the functions in their system message, which is added if there is none."""
    has_system = turns[0].role == "system"
    front = (turns[0].text or "") if has_system else ""
    return [Said("system", tools.written(spelling, front)), *turns[has_system:]]


def spelling_of(talker: Talker) -> ToolSpelling | None:
    """Return how the talker's model writes function calls; None if it can't."""
    return ToolSpelling.of(talker.model.backbone.tokenizer) if talker.prompts.style == "chat" else None


def read_tools(given: Sequence[Any], choice: Any, many: bool | None, param: str) -> Tools | None:
    """Read functions from a Realtime or chat request; None if none may be called.

    Raises:
        RequestError: a tool that isn't a function, or a choice of a function that isn't given.
    """
    functions = tuple(_function(tool, f"{param}.tools[{number}]") for number, tool in enumerate(given))
    if len(functions) > MAX_TOOLS:
        raise RequestError(f"{len(functions)} functions were given; {MAX_TOOLS} are allowed", param=f"{param}.tools")
    if isinstance(choice, Mapping):
        # The Realtime protocol names the function here, chat completions inside `function`.
        named = choice.get("name") or (choice.get("function") or {}).get("name")
        functions = tuple(one for one in functions if one["function"]["name"] == named)
        if not functions:
            raise RequestError(f"tool_choice names {str(named)[:64]!r}, which is none of the tools", param=param)
    elif choice not in (None, "auto", "none", "required"):
        raise RequestError("tool_choice is auto, none, required, or names a function", param=f"{param}.tool_choice")
    if not functions and choice == "required":
        raise RequestError("tool_choice is required, and there are no tools to call", param=f"{param}.tool_choice")
    if not functions or choice == "none":
        return None
    return Tools(functions, must=choice == "required" or isinstance(choice, Mapping), many=many is not False)


def call_of(name: Any, arguments: Any, param: str) -> Call:
    """Read a call that a client sends back; RequestError without a name, or if the arguments aren't a JSON object."""
    try:
        is_object = isinstance(json.loads(arguments or "{}"), dict)
    except (TypeError, ValueError, RecursionError):
        is_object = False
    if not isinstance(name, str) or not is_object:
        raise RequestError("a call needs a name, and arguments: a JSON object in a string", param=param)
    return Call(name[:200], arguments or "{}")


def _function(tool: Any, param: str) -> Mapping[str, Any]:
    # Chat completions nest the function; the Realtime protocol doesn't.
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(inner, Mapping) or tool.get("type", "function") != "function":
        raise RequestError("only tools of the type 'function' are supported", "unsupported_value", param)
    name, parameters = inner.get("name"), inner.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(parameters, Mapping):
        raise RequestError("a function has a name of letters, digits, _ and -, and parameters", param=param)
    described = {"name": name, "description": str(inner.get("description") or ""), "parameters": parameters}
    return {"type": "function", "function": described}


async def answer_or_calls(
    model: ModelThread, question: Question, tools: Tools | None, memory: Memory | None = None
) -> AsyncGenerator[Event | Called, None]:
    """Yield the events of an answer, with its function calls at the end.

    Sound is held back while the text may be the beginning of a call. Once a call has begun, the answer continues
    without sound, and sound that is still held back is dropped.
    """
    if tools is None:
        async with aclosing(model.answer(question, memory)) as events:
            async for event in events:
                yield event
        return
    reader, held, mute = CallReader(tools.names), list[AudioDelta](), threading.Event()
    # A required call begins in the prompt, which the reader doesn't see otherwise.
    reader.push(question.opening)
    async with aclosing(model.answer(question, memory, mute)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                words = reader.push(event.text)
                if words:
                    yield TextDelta(words)
                if reader.is_in_call:
                    mute.set()
                    held.clear()
            elif isinstance(event, AudioDelta):
                if not reader.is_in_call:
                    held.append(event)
            elif isinstance(event, Ended):
                for last in _ending(reader, held, event, tools):
                    yield last
                return
            else:
                yield event
            if not reader.is_undecided:
                for sound in held:
                    yield sound
                held.clear()


def _ending(
    reader: CallReader, held: list[AudioDelta], ended: Ended, tools: Tools
) -> list[TextDelta | AudioDelta | Called | Ended | Failed]:
    """Return the last events of an answer: the rest of its text and sound, and its calls."""
    was_cut = ended.done.finish_reason == "length" or ended.done.stopped_by is not None
    try:
        words, calls = reader.finish()
    except ValueError as error:
        # A call that was cut off can't be complete.
        if was_cut:
            return [ended]
        log.warning("a call could not be read: %s", error)
        return [Failed(_UNREADABLE, is_ours=True)]
    names = {one["function"]["name"] for one in tools.functions}
    if tools.must and any(call.name not in names for call in calls):
        return [Failed("the model called a function that is none of the tools; ask again", is_ours=True)]
    if not calls and tools.must and not was_cut:
        return [Failed("the model called no function, though it was told to; ask again", is_ours=True)]
    called = [Called(tuple(calls if tools.many else calls[:1]))] if calls else []
    return [*([TextDelta(words)] if words else []), *held, *called, ended]
