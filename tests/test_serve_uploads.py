"""What comes over HTTP: how much sound of it is unpacked and where it is kept, and bodies that can't be read."""

from __future__ import annotations

import base64
import io
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
from packed_lab import NEEDED, packed
from serve_lab import Running, question, running
from starlette import formparsers
from talkers import make_talker

from anytalk.serve.errors import RequestError
from anytalk.serve.http.files_out import read_sound


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make_talker(), max_unheard_s=5.0) as found:
        yield found


def post(server: Running, path: str, **options: Any) -> httpx2.Response:
    with httpx2.Client(base_url=f"http://{server.address}", timeout=30) as client:
        return client.post(path, **options)


def flac(channels: int, rate_hz: int, seconds: float) -> bytes:
    """Nearly nothing, which takes as little room."""
    wave = np.zeros((int(rate_hz * seconds), channels), np.int16)
    wave[:: rate_hz // 10] = 3000
    out = io.BytesIO()
    soundfile.write(out, wave, rate_hz, format="FLAC")
    return out.getvalue()


def test_large_uploads_stay_in_memory(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(formparsers.SpooledTemporaryFile):  # type: ignore[name-defined,misc]
        def rollover(self) -> None:
            raise AssertionError("this would be written to a disk")

    monkeypatch.setattr(formparsers, "SpooledTemporaryFile", Kept)
    out = io.BytesIO()
    soundfile.write(out, np.tile(question(rate_hz=48_000), 4), 48_000, format="WAV", subtype="FLOAT")
    assert len(out.getvalue()) > 2 << 20
    answer = post(server, "/v1/audio/transcriptions", data={"model": "tiny"}, files={"file": ("q.wav", out.getvalue())})
    assert answer.status_code == 200, answer.text


def test_channels_are_mixed_as_they_are_unpacked() -> None:
    data = flac(8, 48_000, 20.0)
    tracemalloc.start()
    try:
        wave = read_sound(data, "q.flac", 16_000, 30.0, "file")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(wave) == 20 * 16_000
    assert peak < 8 * 20 * 48_000 * 4 / 2, "half of what all channels take"


def test_a_mixture_is_the_mean_of_its_channels() -> None:
    left, right = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 200_000)).astype(np.float32)
    out = io.BytesIO()
    soundfile.write(out, np.stack([left, right], axis=1), 16_000, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(read_sound(out.getvalue(), "q", 16_000, 30.0, "file"), (left + right) / 2, atol=1e-7)


def test_only_kinds_that_are_promised_are_unpacked() -> None:
    out = io.BytesIO()
    soundfile.write(out, question(rate_hz=16_000), 16_000, format="AIFF", subtype="PCM_16")
    with pytest.raises(RequestError, match="expected wav, flac, ogg, mp3, webm, mp4 or m4a"):
        read_sound(out.getvalue(), "q.aiff", 16_000, 30.0, "file")


@NEEDED
@pytest.mark.parametrize("kind", ["webm", "mp4"])
def test_recordings_of_browsers_are_heard(server: Running, kind: str) -> None:
    data = packed(kind, question(rate_hz=48_000), 48_000)
    answer = post(server, "/v1/audio/transcriptions", files={"file": (f"q.{kind}", data)})
    assert answer.status_code == 200, answer.text
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}
    asked = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 2}
    assert post(server, "/v1/chat/completions", json=asked).status_code == 200


@pytest.mark.parametrize("rate_hz", [655_350, 100])
def test_rates_that_nobody_records_with(rate_hz: int) -> None:
    with pytest.raises(RequestError, match=f"a sample rate of {rate_hz} Hz"):
        read_sound(flac(1, rate_hz, 1.0), "q.flac", 16_000, 30.0, "file")


def test_a_body_that_is_no_json_is_called_so(server: Running) -> None:
    for path in ("/v1/chat/completions", "/v1/audio/speech"):
        error = post(server, path, content=b"{", headers={"Content-Type": "application/json"}).json()["error"]
        assert (error["code"], error["message"]) == ("invalid_json", "the body is not JSON")
    error = post(server, "/v1/chat/completions", content=b"3").json()["error"]
    assert error["message"].startswith("body: ")


def test_half_a_character_is_told_before_the_model_is_asked(server: Running) -> None:
    body = b'{"messages": [{"role": "user", "content": "half \\ud83d"}]}'
    answer = post(server, "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "\\ud83d is half of a surrogate pair" in answer.json()["error"]["message"]


def test_a_chat_holds_only_so_much_speech(server: Running) -> None:
    out = io.BytesIO()
    soundfile.write(out, question(rate_hz=16_000), 16_000, format="WAV", subtype="PCM_16")
    part = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(out.getvalue()).decode(), "format": "wav"},
    }
    turn = {"role": "user", "content": [part]}
    few = post(server, "/v1/chat/completions", json={"messages": [turn], "max_tokens": 2})
    assert few.status_code == 200, few.text
    many = post(server, "/v1/chat/completions", json={"messages": [turn] * 10, "max_tokens": 2})
    assert many.status_code == 400
    assert many.json()["error"]["code"] == "audio_too_long"
    assert "more than 5 s of speech" in many.json()["error"]["message"]
