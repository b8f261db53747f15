"""A transcript in the formats that clients ask for."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from anytalk.serve.errors import RequestError

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")


def check_wanted(response_format: str, granularities: list[str], include: list[str], stream: bool) -> None:
    """Look whether a transcript can be given so (RequestError: it can't)."""
    if response_format not in FORMATS:
        said = f"response_format is '{response_format[:20]}'; known: {', '.join(FORMATS)}"
        raise RequestError(said, "unsupported_value", "response_format")
    if stream and response_format in ("srt", "vtt", "verbose_json"):
        said = f"{response_format} is not streamed; leave `stream` out, or ask for json"
        raise RequestError(said, "unsupported_value", "stream")
    if "word" in granularities:
        raise RequestError(
            "no times of words are known; ask for 'segment'", "unsupported_value", "timestamp_granularities"
        )
    if include:
        raise RequestError("no log probabilities are given; leave `include` out", "unsupported_value", "include")


def transcript_as(response_format: str, text: str, seconds: float, language: str | None) -> Response:
    """A transcript of one segment; nothing was said where the text is empty."""
    if response_format == "text":
        return PlainTextResponse(text + "\n")
    if response_format in ("srt", "vtt"):
        return PlainTextResponse(_subtitles(response_format, text, seconds))
    usage = {"type": "duration", "seconds": seconds}
    if response_format == "json":
        return JSONResponse({"text": text, "usage": usage})
    segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": text, "tokens": [], "temperature": 0.0}
    scores = {"avg_logprob": 0.0, "compression_ratio": 0.0, "no_speech_prob": 0.0}
    segments: list[dict[str, Any]] = [{**segment, **scores}] if text else []
    verbose = {"task": "transcribe", "language": language or "", "duration": seconds, "text": text}
    return JSONResponse({**verbose, "segments": segments, "usage": usage})


def _subtitles(name: str, text: str, seconds: float) -> str:
    head, mark = ("WEBVTT\n\n", ".") if name == "vtt" else ("", ",")
    if not text:
        return head
    number = "1\n" if name == "srt" else ""
    return f"{head}{number}{_time(0.0, mark)} --> {_time(seconds, mark)}\n{text}\n\n"


def _time(seconds: float, mark: str) -> str:
    whole, ms = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{ms:03d}"
