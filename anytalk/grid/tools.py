"""Handles function calls as text: writes functions, calls and results like the chat template, and reads calls.

The calls are those of Qwen2.5's template and of all that use its format (Hermes, Qwen3, SmolLM2 ...):
``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, one after another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from anytalk.errors import AnytalkError
from anytalk.grid.chat import Composed, Markup

_BEGIN, _END = "<tool_call>", "</tool_call>"
# How calls without marks begin, white space aside; some models put them in a code fence.
_BARE = ('{"name":', '```json{"name":', '```{"name":')
_EDGES = re.compile(f"({_BEGIN}|{_END})")
_MARK = "\ue000text\ue001"
_HIDDEN = {_BEGIN: "(anytalk-tool-call)", _END: "(/anytalk-tool-call)"}
"""What replaces the marks of calls in people's texts while a template writes its own."""
_ANY_NAME = "anytalk_probe"
_USER = {"role": "user", "content": "?"}
_ANSWER = {"role": "assistant", "content": "!"}
_PROBE = {"type": "function", "function": {"name": _ANY_NAME, "parameters": {"type": "object", "properties": {}}}}


@runtime_checkable
class ToolTokenizer(Protocol):
    """A tokenizer whose chat template may know functions; optional."""

    def render_tools(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """Render like `TextTokenizer.render_chat`, with functions, calls in answers, and messages of role ``tool``."""


@dataclass(frozen=True)
class Call:
    """Holds a function call that the model asks for."""

    name: str  # name of the function
    arguments: str  # JSON of an object


class ToolSpelling:
    """Finds out what a template writes for system messages, answers and questions if there are functions.

    Args:
        render: Turns messages and functions into text, like :meth:`ToolTokenizer.render_tools`.
    """

    def __init__(self, render: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], str]) -> None:
        self._render = render

    @classmethod
    def of(cls, tokenizer: object) -> ToolSpelling | None:
        """Return the spelling of a model; None if its template knows no functions or writes calls in another way."""
        if not isinstance(tokenizer, ToolTokenizer):
            return None
        # A probe: templates that ignore functions, or write calls otherwise, don't contain what is looked for.
        found = cls(tokenizer.render_tools)
        try:
            knows = _ANY_NAME in found.system("?", [_PROBE]) and _BEGIN in found.system("?", [_PROBE])
            return found if knows and _BEGIN in found.calls("", [Call("f", "{}")]) and found.results(["1"]) else None
        except (AnytalkError, LookupError, TypeError, ValueError):
            return None

    def system(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Composed:
        """Return the system message `text` with functions, each described as in chat completions."""
        messages = [{"role": "system", "content": _MARK}, _USER]
        written = self._between(self._render(messages, []), self._render(messages, tools))
        before, _, after = written.partition(_MARK)
        return Composed(Markup(before), text, Markup(after if text else after.lstrip()))

    def calls(self, text: str, calls: Sequence[Call]) -> Composed:
        """Return an answer that ends with calls."""
        made = [
            {"type": "function", "function": {"name": call.name, "arguments": json.loads(_hidden(call.arguments))}}
            for call in calls
        ]
        plain: list[Mapping[str, Any]] = [_USER, {"role": "assistant", "content": _MARK}, _USER]
        said = {"role": "assistant", "content": _hidden(text), "tool_calls": made}
        written = self._between(self._render(plain, []), self._render([_USER, said, _USER], []))
        # A call's content may come from people, who may write such marks themselves.
        parts = (Markup(part) if part in _HIDDEN else _shown(part) for part in _EDGES.split(written))
        return Composed(*parts)

    def opening(self, names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Return the beginning of an answer that calls one of these functions.

        It is what they share up to the name, and how each continues up to its arguments if there are several.
        """
        front, _, rest = str(self.calls("", [Call(_ANY_NAME, "{}")])).partition(_ANY_NAME)
        # It must not end with a space: models write the one before an object as part of the next token.
        each = tuple(f"{name}{rest.partition('{}')[0]}".rstrip() for name in names)
        return (front, each) if len(each) > 1 else (front + each[0], ())

    def results(self, results: Sequence[str]) -> Composed:
        """Return the user's turn with what functions returned."""
        returned = [{"role": "tool", "content": _MARK} for _ in results]
        plain = [_USER, _ANSWER, {"role": "user", "content": _MARK}]
        first, *more = self._between(self._render(plain, []), self._render([_USER, _ANSWER, *returned], [])).split(
            _MARK
        )
        if len(more) != len(results):
            raise LookupError("the template leaves results out")
        parts = [part for result, after in zip(results, more, strict=True) for part in (result, Markup(after))]
        return Composed(Markup(first), *parts)

    @staticmethod
    def _between(plain: str, written: str) -> str:
        """Return the text of `written` for the mark in `plain` (LookupError: the text around it differs too)."""
        before, found, after = plain.partition(_MARK)
        if not found or not written.startswith(before) or not written.endswith(after):
            raise LookupError("the template writes more than one message otherwise")
        return written[len(before) : len(written) - len(after)]


def _hidden(text: str) -> str:
    for edge, mark in _HIDDEN.items():
        text = text.replace(edge, mark)
    return text


def _shown(text: str) -> str:
    for edge, mark in _HIDDEN.items():
        text = text.replace(mark, edge)
    return text


class CallReader:
    """Reads an answer's text piece by piece, and separates its words from its calls.

    Args:
        names: The functions' names. An answer that begins with the JSON of a call to one of them is that call, because
            some models (Qwen2.5-Coder) omit the marks around it.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = names
        self._held = ""
        self._written: str | None = None
        self._may_be_bare = bool(names)

    @property
    def is_undecided(self) -> bool:
        """Return whether the last characters may be the beginning of a call."""
        return bool(self._held.strip())

    @property
    def is_in_call(self) -> bool:
        """Return whether a call has begun; all that follows belongs to calls."""
        return self._written is not None

    def push(self, text: str) -> str:
        """Add a piece; return what of it, and of earlier pieces, is certain to be words."""
        if self._written is not None:
            self._written += text
            return ""
        self._held += text
        if self._may_be_bare:
            self._may_be_bare = _may_begin_bare(self._held)
            # Only a piece with a closing brace can complete an object.
            call = self._bare_call() if self._may_be_bare and "}" in text else None
            if call is not None:
                self._held, self._written = "", f"{_BEGIN}{call}{_END}"
            if self._may_be_bare:
                return ""
        words, found, rest = self._held.partition(_BEGIN)
        if found:
            self._held, self._written = "", _BEGIN + rest
            return words.rstrip()
        # White space before a call isn't spoken either, so it is held back with it.
        size = next(n for n in range(len(words) + 1) if _may_begin(words[n:]))
        self._held = words[size:]
        return words[:size]

    def _bare_call(self) -> str | None:
        """Return the JSON of a call without marks once it is complete."""
        written = self._held[self._held.index("{") :]
        try:
            made, end = json.JSONDecoder().raw_decode(written)
        except ValueError:
            return None
        is_call = made.get("name") in self._names and isinstance(made.get("arguments"), dict)
        return written[:end] if is_call else None

    def finish(self) -> tuple[str, list[Call]]:
        """Return the words that were held back, and the calls.

        Raises:
            ValueError: a call can't be read.
        """
        words, self._held = self._held, ""
        return words, [] if self._written is None else read_calls(self._written)


def _may_begin_bare(text: str) -> bool:
    """Return whether an answer that begins like this may be a call without marks."""
    begun = "".join(text.split())
    return any(begun.startswith(opening) or opening.startswith(begun) for opening in _BARE)


def _may_begin(text: str) -> bool:
    return _BEGIN.startswith(text.lstrip())


def read_calls(text: str) -> list[Call]:
    """Read the calls of a text that begins with one; text between them is dropped.

    Raises:
        ValueError: a call isn't a JSON object with a `name`, or its `arguments` aren't an object.
    """
    calls = []
    for part in text.split(_BEGIN)[1:]:
        written = part.partition(_END)[0].strip()
        made = json.loads(written)
        name = made.get("name") if isinstance(made, dict) else None
        arguments = made.get("arguments", {}) if isinstance(made, dict) else None
        # Some models write the arguments as a JSON string, as the API does.
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise ValueError(f"a call without a name or arguments: {written[:200]}")
        calls.append(Call(name, json.dumps(arguments, ensure_ascii=False)))
    return calls
