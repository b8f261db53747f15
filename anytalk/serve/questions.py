"""Read what clients of all endpoints send: sound, voices, turns and tasks."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from anytalk.decode.jobs import Said, Speech
from anytalk.errors import AnytalkError, did_you_mean
from anytalk.grid.audio import check_speech, resample
from anytalk.grid.tasks import TASKS, Task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Ears
from anytalk.serve.errors import RequestError, of_ours
from anytalk.serve.state import ServerState

DEFAULT_VOICE = "default"
SILENCE = "..."
"""Text of the user's turn after an idle timeout, or if a client asks for two answers in a row."""
OPENAI_VOICES = (
    "alloy",
    "ash",
    "ballad",
    "cedar",
    "coral",
    "echo",
    "fable",
    "marin",
    "nova",
    "onyx",
    "sage",
    "shimmer",
    "verse",
)
"""OpenAI's names of voices, which clients send without knowing the talker; they get its first voice."""


def new_id(prefix: str) -> str:
    """Return a new id such as ``item_...``."""
    return f"{prefix}_{secrets.token_hex(12)}"


def from_base64(data: str, param: str) -> bytes:
    """Decode base64; RequestError if it isn't valid."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("the sound is not base64", "invalid_value", param) from None


def speaker_of(voice: str | dict[str, Any] | None, talker: Talker, param: str = "voice") -> str | None:
    """Return the talker's name of a voice, None for its first voice; RequestError if it has no such voice."""
    name = voice.get("id") if isinstance(voice, dict) else voice
    speakers = talker.config.speakers
    if name in speakers:
        return str(name)
    if name is None or name == DEFAULT_VOICE or name in OPENAI_VOICES:
        return None
    known = [*speakers, DEFAULT_VOICE]
    said = f"unknown voice {str(name)[:40]!r}{did_you_mean(str(name)[:40], known)}; voices: {', '.join(known)}"
    raise RequestError(said, "invalid_value", param)


def task_for(turns: list[Said], spoken: bool) -> Task:
    """Return A1A2, A1T2, T1A2 or T1T2, depending on the last turn."""
    return TASKS[("A1" if turns[-1].speech is not None else "T1") + ("A2" if spoken else "T2")]


def speech_of(
    wave: np.ndarray,
    from_hz: int,
    to_hz: int,
    max_turn_s: float,
    before: Sequence[Speech] = (),
    ears: Ears | None = None,
) -> Speech:
    """Convert sound to a spoken question; RequestError if it is too short, too long or silent.

    Args:
        wave: The whole question, (N,) float32.
        from_hz: Sample rate of the wave.
        to_hz: Sample rate of the ears.
        max_turn_s: Longest question; the rest is cut off.
        before: Pieces at the beginning, at the ears' rate, which are heard separately.
        ears: Ears in place of the talker's, where they know something of the question.
    """
    try:
        check_speech(wave, from_hz, "the turn", max_turn_s + 0.5)
    except AnytalkError as error:
        raise of_ours(error, "invalid_audio") from None
    most = int(max_turn_s * to_hz)
    rest = resample(wave, from_hz, to_hz)[sum(piece.num_samples for piece in before) : most]
    return Speech(rest, before, ears=ears)


def check_unheard(state: ServerState, turns: Iterable[Said]) -> None:
    """Limit the speech that waits to be heard; RequestError if there is too much."""
    waiting = sum(t.speech.num_samples for t in turns if t.speech is not None and not t.speech.was_heard)
    most = state.settings.max_unheard_s
    if waiting and waiting > most * state.ear_rate_hz:
        raise RequestError(
            f"more than {most:.0f} s of speech wait for an answer; ask for one, or give earlier turns as text",
            "audio_too_long",
        )


def with_instructions(turns: list[Said], instructions: str) -> list[Said]:
    """Join all system messages into one at the front, as chat templates expect."""
    system = [instructions, *(turn.text or "" for turn in turns if turn.role == "system")]
    front = "\n".join(text for text in system if text.strip())
    rest = [turn for turn in turns if turn.role != "system"]
    return [Said("system", front), *rest] if front else rest
