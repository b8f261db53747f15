"""Define the options of a session: the protocol's session object, merged from updates and checked."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anytalk.grid.stretch import MAX_SPEED, MIN_SPEED
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Ears
from anytalk.serve.errors import RequestError, of_validation
from anytalk.serve.hints import ears_told
from anytalk.serve.questions import DEFAULT_VOICE, speaker_of
from anytalk.serve.realtime.vad import VadSettings
from anytalk.serve.sound import FORMAT_NAMES, G711_RATE_HZ, PCM_RATE_HZ, WireFormat

_Word = Annotated[str, Field(max_length=200)]
_MAX_WORDS, _MAX_PROMPT = 100, 2_000
"""Limits of fields that are kept and shown with every update."""
_PCM_RATES_HZ = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TurnDetection(_Part):
    """Configures server VAD."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(0.5, gt=0, lt=1)
    prefix_padding_ms: int = Field(300, ge=0, le=5_000)
    silence_duration_ms: int = Field(500, ge=32, le=10_000)
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: int | None = Field(None, ge=1_000, le=120_000)

    def vad(self) -> VadSettings:
        """Return the settings of the voice activity detection."""
        return VadSettings(self.threshold, self.prefix_padding_ms, self.silence_duration_ms)


class Transcription(_Part):
    """Requests transcripts of the user's turns; the talker's own ears make them, whatever `model` is named."""

    model: _Word | None = None
    language: _Word | None = None
    languages: list[_Word] | None = Field(None, max_length=_MAX_WORDS)
    prompt: str | None = Field(None, max_length=_MAX_PROMPT)
    keywords: list[_Word] | None = Field(None, max_length=_MAX_WORDS)

    @property
    def told(self) -> tuple[str | None, str]:
        """The language and the text that the ears are told."""
        language = self.language or next(iter(self.languages or ()), None)
        return language, " ".join(filter(None, [self.prompt, ", ".join(self.keywords or ())]))


class AudioInput(_Part):
    """Holds the session's options for input sound."""

    format: dict[str, Any] = Field(default_factory=lambda: {"type": "audio/pcm", "rate": PCM_RATE_HZ})
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = Field(default_factory=TurnDetection)


class AudioOutput(_Part):
    """Holds the session's options for output sound."""

    format: dict[str, Any] = Field(default_factory=lambda: {"type": "audio/pcm", "rate": PCM_RATE_HZ})
    voice: str | dict[str, Any] = DEFAULT_VOICE
    speed: float = Field(1.0, ge=MIN_SPEED, le=MAX_SPEED)


class Audio(_Part):
    """Holds the session's options for sound."""

    input: AudioInput = Field(default_factory=AudioInput)
    output: AudioOutput = Field(default_factory=AudioOutput)


class SessionOptions(_Part):
    """Holds the session object."""

    type: Literal["realtime", "transcription"] = "realtime"
    model: str
    instructions: str = ""
    output_modalities: list[Literal["text", "audio"]] = Field(["audio"])
    max_output_tokens: int | Literal["inf"] = "inf"
    audio: Audio = Field(default_factory=Audio)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] = "auto"
    parallel_tool_calls: bool | None = None

    @property
    def answers(self) -> bool:
        """Tell whether turns are answered; sessions of type ``transcription`` only transcribe them."""
        return self.type == "realtime"

    def merged(self, changes: dict[str, Any], talker: Talker, max_text_chars: int) -> SessionOptions:
        """Return these options with some changed; ``None`` switches an option off.

        Raises:
            RequestError: an unknown field, or a value that doesn't fit.
        """
        try:
            options = SessionOptions.model_validate(_merged(self.model_dump(), changes))
        except ValidationError as error:
            raise of_validation(error.errors(), "session") from None
        options.check(talker, max_text_chars)
        return options

    def shown(self) -> dict[str, Any]:
        """Return the options as the protocol shows them; unset ones are left out, those switched off are ``null``."""
        shown = self.model_dump(exclude_none=True)
        heard = self.audio.input
        off = {"noise_reduction": None}
        if heard.transcription is None:
            off["transcription"] = None
        if heard.turn_detection is None:
            off["turn_detection"] = None
        shown["audio"]["input"].update(off)
        if not self.answers:
            return {"type": self.type, "audio": {"input": shown["audio"]["input"]}}
        return {**shown, "truncation": "auto"}

    def check(self, talker: Talker, max_text_chars: int) -> None:
        """Check what pydantic can't.

        Raises:
            RequestError: an unknown voice or format, not exactly one modality, instructions that are too long, or
                transcripts from a talker without ears.
        """
        self.input_format()
        self.output_format()
        speaker_of(self.audio.output.voice, talker, "session.audio.output.voice")
        one_modality(self.output_modalities, "session.output_modalities")
        tokens_of(self.max_output_tokens, "session.max_output_tokens")
        if self.audio.input.transcription is not None and talker.model.listener is None:
            raise RequestError("this talker has no ears; ask by text", "unsupported_value")
        self.ears(talker)
        if len(self.instructions) > max_text_chars:
            raise RequestError(
                f"the instructions have {len(self.instructions)} characters; {max_text_chars} are allowed",
                "string_above_max_length",
                "session.instructions",
            )

    def ears(self, talker: Talker) -> Ears | None:
        """Return the talker's ears, told what the session says of what they will hear; None for them as they are.

        Raises:
            RequestError: see :func:`anytalk.serve.hints.ears_told`.
        """
        transcription = self.audio.input.transcription
        if transcription is None:
            return None
        if len(transcription.languages or ()) > 1:
            said = "the ears are told one language; name one, or none"
            raise RequestError(said, "unsupported_value", "session.audio.input.transcription.languages")
        return ears_told(talker, *transcription.told, above="session.audio.input.transcription.")

    def input_format(self) -> WireFormat:
        return wire_format(self.audio.input.format, "session.audio.input.format")

    def output_format(self) -> WireFormat:
        return wire_format(self.audio.output.format, "session.audio.output.format")


def wire_format(given: dict[str, Any], param: str) -> WireFormat:
    """Read the protocol's format object.

    Raises:
        RequestError: an unknown format. PCM rates other than 24 kHz are an extension.
    """
    name, rate = given.get("type"), given.get("rate")
    name = "audio/pcm" if name is None else name
    if name not in FORMAT_NAMES:
        known = ", ".join(FORMAT_NAMES)
        raise RequestError(f"unknown audio format {str(name)[:40]!r}; known: {known}", "invalid_value", f"{param}.type")
    allowed = _PCM_RATES_HZ if name == "audio/pcm" else (G711_RATE_HZ,)
    if rate is None:
        return WireFormat(name, PCM_RATE_HZ if name == "audio/pcm" else G711_RATE_HZ)
    if isinstance(rate, bool) or rate not in allowed:
        known = ", ".join(map(str, allowed))
        raise RequestError(f"rate is {str(rate)[:20]}; {name} comes at {known} Hz", "invalid_value", f"{param}.rate")
    return WireFormat(name, int(rate))


def one_modality(modalities: list[Any], param: str) -> bool:
    """Return whether the answer is spoken.

    Raises:
        RequestError: not exactly one of text and audio (audio always includes its text).
    """
    if len(modalities) != 1:
        raise RequestError(
            f"modalities are {modalities}; give ['audio'] (its transcript comes along) or ['text']",
            "invalid_value",
            param,
        )
    return bool(modalities[0] == "audio")


def tokens_of(limit: int | str | None, param: str) -> int | None:
    """Return the limit of an answer in tokens, here columns, or None for no limit; RequestError if it is below one."""
    if limit is None or limit == "inf":
        return None
    if int(limit) < 1:
        raise RequestError(f"{param.rpartition('.')[2]} is {limit}; expected 1 or more, or 'inf'", param=param)
    return int(limit)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge nested options; a format is replaced as a whole, because its fields belong together."""
    result = copy.copy(old)
    for name, value in new.items():
        before = result.get(name)
        if isinstance(value, dict) and isinstance(before, dict) and name != "format":
            result[name] = _merged(before, value)
        else:
            result[name] = value
    return result
