"""Format a transcript as clients request it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from starlette.responses import JSONResponse, PlainTextResponse, Response

from anytalk.decode.jobs import Speech
from anytalk.plugins.contracts import HeardWord
from anytalk.serve.errors import RequestError

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
_GRANULARITIES = ("word", "segment")
_SOFTER = 10**-2.5
"""Sound that is 25 dB softer than the loudest 20 ms counts as silence."""
_WHY_NOT = {
    "include[]": "no log probabilities are given",
    "include": "no log probabilities are given",
    "chunking_strategy": "sound is always cut at silences",
}


@dataclass(frozen=True)
class Segment:
    """Holds the words between two silences."""

    text: str
    start_s: float  # start of the words, in seconds
    end_s: float  # end of the words, in seconds
    words: Sequence[HeardWord] = ()  # words with times, if they were requested

    @classmethod
    def of(cls, text: str, offset_s: float, span: tuple[float, float], speech: Speech) -> Self:
        """Build a segment from a piece that starts at `offset_s` and has speech within `span`."""
        words = [HeardWord(word, offset_s + start_s, offset_s + end_s) for word, start_s, end_s in speech.words]
        return cls(text, round(offset_s + span[0], 3), round(offset_s + span[1], 3), words)


@dataclass
class Transcript:
    """Holds the transcript of a file."""

    language: str  # as given by the client
    granularities: Sequence[str]  # `"word"` and `"segment"`, if the client wants their times
    seconds: float = 0.0  # length of the file
    segments: list[Segment] = field(default_factory=list)  # in the order of the file

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


def check_wanted(
    response_format: str, granularities: Sequence[str], others: set[str], stream: bool, knows_words: bool
) -> None:
    """Check that a transcript can be given as requested; RequestError if it can't.

    Args:
        others: Names of unknown fields that the client sent.
        knows_words: Whether the ears give times of words.
    """
    if response_format not in FORMATS:
        said = f"response_format is '{response_format[:20]}'; known: {', '.join(FORMATS)}"
        raise RequestError(said, "unsupported_value", "response_format")
    if stream and response_format in ("srt", "vtt", "verbose_json"):
        said = f"{response_format} is not streamed; leave `stream` out, or ask for json"
        raise RequestError(said, "unsupported_value", "stream")
    wrong = [name for name in granularities if name not in _GRANULARITIES]
    said = ""
    if wrong:
        said = f"granularity '{wrong[0][:20]}' is unknown; use 'word' or 'segment'"
    elif granularities and response_format != "verbose_json":
        said = "only verbose_json has times of words and segments; ask for it, or leave timestamp_granularities out"
    elif "word" in granularities and not knows_words:
        said = "these ears give no times of words; ask for 'segment'"
    if said:
        raise RequestError(said, "unsupported_value", "timestamp_granularities")
    if others:
        name = min(others)
        why = _WHY_NOT.get(name, f"`{name[:40]}` is unknown")
        raise RequestError(f"{why}; leave it out", "unsupported_value", name[:40])


def spoken_span(wave: np.ndarray, rate_hz: int) -> tuple[float, float]:
    """Return when speech starts and ends in samples (N,), in seconds."""
    size = rate_hz // 50  # 20 ms
    whole = len(wave) - len(wave) % size
    loudness = np.square(wave[:whole]).reshape(-1, size).mean(axis=1)
    spoken = np.flatnonzero(loudness >= _SOFTER * loudness.max(initial=0.0))
    return (float(spoken[0]) * size / rate_hz, float(spoken[-1] + 1) * size / rate_hz) if len(spoken) else (0.0, 0.0)


def transcript_as(response_format: str, written: Transcript) -> Response:
    """Format a transcript as the client requested; without segments it is empty."""
    if response_format == "text":
        return PlainTextResponse(written.text + "\n")
    if response_format in ("srt", "vtt"):
        return PlainTextResponse(_subtitles(response_format, written.segments))
    usage = {"type": "duration", "seconds": written.seconds}
    if response_format == "json":
        return JSONResponse({"text": written.text, "usage": usage})
    shown: dict[str, Any] = {
        "task": "transcribe",
        "language": written.language,
        "duration": written.seconds,
        "text": written.text,
    }
    if "word" in written.granularities:
        words = [word for segment in written.segments for word in segment.words]
        shown["words"] = [{"word": text, "start": round(a, 2), "end": round(b, 2)} for text, a, b in words]
    if "segment" in written.granularities or not written.granularities:
        shown["segments"] = [_shown(number, segment) for number, segment in enumerate(written.segments)]
    return JSONResponse({**shown, "usage": usage})


def _shown(number: int, segment: Segment) -> dict[str, Any]:
    times = {"id": number, "seek": 0, "start": segment.start_s, "end": segment.end_s}
    # The format has these fields; nothing measures them here.
    scores = {"avg_logprob": 0.0, "compression_ratio": 0.0, "no_speech_prob": 0.0}
    return {**times, "text": segment.text, "tokens": [], "temperature": 0.0, **scores}


def _subtitles(name: str, segments: Sequence[Segment]) -> str:
    head, mark = ("WEBVTT\n\n", ".") if name == "vtt" else ("", ",")
    lines = [
        f"{f'{number}{chr(10)}' if name == 'srt' else ''}"
        f"{_time(segment.start_s, mark)} --> {_time(segment.end_s, mark)}\n{segment.text}\n\n"
        for number, segment in enumerate(segments, start=1)
    ]
    return head + "".join(lines)


def _time(seconds: float, mark: str) -> str:
    whole, ms = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{ms:03d}"
