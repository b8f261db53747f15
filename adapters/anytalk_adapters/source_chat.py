"""Reads chat records as turns, in the formats in which conversations with sound are published.

- ``messages: [{role, content}]`` with ``<audio>`` (ms-swift, LLaMA-Factory) or ``<|audio|>`` (VITA) in the content,
  each of which refers to the next of ``audios: [path, ...]``;
- content lists of OpenAI's chat API: ``[{type: text, text}, {type: input_audio, input_audio: {data, format}}]``, or
  ``{type: audio, audio: path}`` as in transformers' chat templates;
- ShareGPT's ``conversations: [{from, value}]``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anytalk.errors import DataError, did_you_mean
from anytalk.plugins.contracts import Audio, Message, Sound
from anytalk_adapters.source_fields import Folder, sound_of

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""Names that chat data sets use for the three roles."""

TAG = re.compile(r"<audio>|<\|audio\|>")
_NEXT = object()


def turns_of(data: Mapping[str, Any], where: str, folder: Folder) -> list[Message]:
    """Return all turns of a record, including a top-level ``system``.

    Raises:
        DataError: The record has none of these formats, a role or content is of an unknown kind, or the number of tags
            differs from that of sounds.
    """
    messages = next((data[key] for key in ("messages", "conversations") if data.get(key) is not None), None)
    if not isinstance(messages, list) or not messages:
        near = did_you_mean("messages", list(data)).replace("did you mean", "is it")
        raise DataError(f"{where} has no 'messages'{near}", "write {messages: [{role, content}, ...]}")
    audios = data.get("audios")
    # A single sound is often given without a list.
    audios = [audios] if isinstance(audios, str) else audios or []
    if not isinstance(audios, list):
        raise DataError(f"{where}: field 'audios' is a {type(audios).__name__}; a list of paths is expected", "")
    sounds = _Sounds(audios, where, folder)
    turns = [_turn(message, f"{where}, turn {number}", sounds) for number, message in enumerate(messages, start=1)]
    sounds.check_used_up()
    if data.get("system") and turns[0].role != "system":
        turns.insert(0, Message(role="system", text=str(data["system"])))
    return turns


class _Sounds:
    """Returns the sounds of a record in order."""

    def __init__(self, values: list[Any], where: str, folder: Folder) -> None:
        self.values, self.where, self.folder, self.used = values, where, folder, 0

    def next(self) -> Audio | None:
        """Return the sound that the next tag refers to."""
        self.used += 1
        if self.used > len(self.values):
            raise DataError(
                f"{self.where}: its messages have more audio tags than there are sounds ({len(self.values)})",
                "give one entry of 'audios' for each tag, in order",
            )
        return sound_of(self.values[self.used - 1], "audios", self.where, self.folder)

    def check_used_up(self) -> None:
        """Refuse sounds that no tag refers to."""
        if self.used < len(self.values):
            raise DataError(
                f"{self.where}: {len(self.values)} sounds, but {self.used} audio tags in its messages",
                "write <audio> where each sound belongs",
            )


def _turn(message: Any, where: str, sounds: _Sounds) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f"{where} is a {type(message).__name__}; an object is expected", "write {role, content}")
    called = message.get("role", message.get("from"))
    role = ROLES.get(str(called))
    if role is None:
        raise DataError(
            f"{where}: unknown role {called!r}{did_you_mean(str(called), list(ROLES))}", f"roles: {', '.join(ROLES)}"
        )
    words, audio = [], []
    for value in _parts(message.get("content", message.get("value")), where):
        if isinstance(value, str):
            words.append(value)
        else:
            # A part without a value of its own refers to the record's list of sounds.
            audio.append(sounds.next() if value is _NEXT else _given(value[0], where, sounds.folder))
    if message.get("audio") is not None:
        audio.append(_given(message["audio"], where, sounds.folder))
    if len(audio) > 1:
        raise DataError(f"{where} holds {len(audio)} sounds; one is expected", "join them, or split the turn")
    return Message(role=role, text="".join(words).strip() or None, audio=audio[0] if audio else None)


def _parts(content: Any, where: str) -> Iterator[Any]:
    """Yield text, :data:`_NEXT` for the record's next sound, or a one-tuple with the value of a sound."""
    if content is None:
        return
    if isinstance(content, str):
        yield from _tagged(content)
        return
    items: Iterable[Any] = [content] if isinstance(content, Mapping) else content
    if not isinstance(items, list):
        raise DataError(f"{where}: its content is a {type(content).__name__}", "write text, or a list of parts")
    for item in items:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if isinstance(item, str):
            yield from _tagged(item)
        elif kind == "text" and isinstance(item.get("text"), str):
            yield from _tagged(item["text"])
        elif kind in ("audio", "input_audio", "audio_url"):
            keys = ("input_audio", "audio", "audio_url", "url", "path")
            value = next((item[key] for key in keys if item.get(key) is not None), None)
            yield _NEXT if value is None else (value,)
        else:
            raise DataError(
                f"{where}: a part of its content is of type {kind!r}", "known: text, audio, input_audio, audio_url"
            )


def _tagged(text: str) -> Iterator[Any]:
    pieces = TAG.split(text)
    yield pieces[0]
    for piece in pieces[1:]:
        yield _NEXT
        yield piece


def _given(value: Any, where: str, folder: Folder) -> Audio | None:
    """Return the sound inside a message: a path, an address, or OpenAI's base64."""
    if isinstance(value, Mapping) and isinstance(value.get("url"), str):
        value = value["url"]
    if isinstance(value, Mapping) and isinstance(value.get("data"), str):
        return _decoded(value["data"], where)
    if isinstance(value, str) and value.startswith("data:"):
        return _decoded(value.partition(",")[2], where)
    return sound_of(value, "audio", where, folder)


def _decoded(data: str, where: str) -> Sound:
    try:
        return Sound(name=f"{where}, audio", data=base64.b64decode(data, validate=True))
    except ValueError as error:  # also raised for characters outside of ASCII
        raise DataError(f"{where}: its audio is not base64: {error}", "encode the bytes of a wav or mp3 file") from None
