"""The server's small parts, each alone: sound, turns, items, options, limits, settings, files."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve_lab import pcm, question
from talkers import make_talker
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.errors import AudioError, ConfigError
from anytalk.plugins.manager import build_plugins
from anytalk.serve.errors import RequestError
from anytalk.serve.http.page import page_files
from anytalk.serve.limits import Admission, RateLimit, TokenBucket, same_key
from anytalk.serve.realtime.input_buffer import InputBuffer
from anytalk.serve.realtime.items import Conversation, Item, read_item
from anytalk.serve.realtime.outbox import Outbox, SlowClientError
from anytalk.serve.realtime.session_options import SessionOptions
from anytalk.serve.realtime.vad import TurnDetector, VadSettings
from anytalk.serve.settings import ServeSettings, is_loopback, open_socket
from anytalk.serve.sound import FORMAT_NAMES, Resampler, WireDecoder, WireEncoder, WireFormat

# Sound


def tone(rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate_hz * seconds)) / rate_hz)).astype(np.float32)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(24_000, 16_000), (16_000, 24_000), (8_000, 24_000), (24_000, 8_000)])
@pytest.mark.parametrize("piece", [1, 160, 777])
def test_resampling_has_no_seams(from_hz: int, to_hz: int, piece: int) -> None:
    wave, parts, whole = tone(from_hz, 0.3), Resampler(from_hz, to_hz), Resampler(from_hz, to_hz)
    pieces = [parts.push(wave[i : i + piece], i + piece >= len(wave)) for i in range(0, len(wave), piece)]
    joined, expected = np.concatenate(pieces), whole.push(wave, is_last=True)
    assert len(joined) == len(expected) == round(len(wave) * to_hz / from_hz)
    assert np.abs(joined - expected).max() < 1e-6
    # It is still the tone, and nothing else.
    inner = slice(to_hz // 20, -to_hz // 20)
    assert np.abs(joined - tone(to_hz, 0.3))[inner].max() < 2e-3


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_formats_there_and_back(name: str) -> None:
    wire = WireFormat(name, 24_000 if name == "audio/pcm" else 8_000)
    wave = tone(wire.rate_hz)
    back = wire.decode(wire.encode(wave))
    assert len(wire.encode(wave)) == len(wave) * wire.bytes_per_sample
    assert np.abs(back - wave).max() < (1e-4 if name == "audio/pcm" else 0.02)
    loud = wire.decode(wire.encode(np.array([2.0, -2.0], np.float32)))
    assert loud[0] > 0.95
    assert loud[1] < -0.95
    assert len(wire.decode(b"")) == 0


def test_g711_is_the_standards() -> None:
    # ITU-T G.711: code words of digital silence and of the largest values.
    assert WireFormat("audio/pcmu", 8_000).encode(np.zeros(1, np.float32)) == b"\xff"
    assert WireFormat("audio/pcma", 8_000).encode(np.zeros(1, np.float32)) == b"\xd5"
    assert WireFormat("audio/pcmu", 8_000).decode(b"\x00\x80") * 32768 == pytest.approx([-32124, 32124])
    assert WireFormat("audio/pcma", 8_000).decode(b"\x2a\xaa") * 32768 == pytest.approx([-32256, 32256])


def test_a_wire_there_and_back_keeps_its_length() -> None:
    encoder, decoder = WireEncoder(16_000, WireFormat()), WireDecoder(WireFormat(), 16_000)
    wave = tone(16_000)
    data = b"".join([encoder.push(wave[:5000]), encoder.push(wave[5000:]), encoder.push(wave[:0], is_last=True)])
    back = np.concatenate([decoder.push(data[: 999 * 2]), decoder.push(data[999 * 2 :]), decoder.flush()])
    assert len(back) == len(wave)
    assert np.abs(back - wave)[500:-500].max() < 2e-3


def test_half_a_sample_is_an_error() -> None:
    with pytest.raises(AudioError, match="3 bytes"):
        WireFormat().decode(b"abc")


# Turns


def test_silero_hears_speech_and_not_noise() -> None:
    speech, noise = question(rate_hz=16_000), 0.02 * np.random.default_rng(0).standard_normal(48_000)
    detector = TurnDetector(VadSettings())
    kinds = [
        event.is_start for start in range(0, len(speech), 320) for event in detector.push(speech[start : start + 320])
    ]
    assert kinds == [True, False]
    assert detector.push(noise.astype(np.float32)) == []
    assert detector.num_samples == len(speech) + len(noise)


def test_settings_of_the_detector() -> None:
    speech = question(rate_hz=16_000)

    def found(**settings: Any) -> list[int]:
        return [event.sample for event in TurnDetector(VadSettings(**settings)).push(speech)]

    normal, padded, patient = found(), found(prefix_padding_ms=100), found(silence_duration_ms=800)
    assert padded[0] - normal[0] == 200 * 16
    assert patient[0] == normal[0]
    assert patient[-1] - normal[-1] in range(280 * 16, 320 * 16)
    assert found(threshold=0.999) == [] or found(threshold=0.999)[0] >= normal[0]


def test_the_buffer_keeps_the_turn_and_little_else() -> None:
    buffer = InputBuffer(WireFormat(), VadSettings(), 30.0)
    assert buffer.push(bytes(48 * 3000)) == []
    assert buffer.length_ms < 600
    found = []
    sound = pcm(question())
    for start in range(0, len(sound), 960):
        found += buffer.push(sound[start : start + 960])
        if len(found) == 2:
            break
    start, stop = found
    assert start.is_start
    assert 3000 < start.at_ms < stop.at_ms
    turn = buffer.take()
    assert abs(len(turn) / 16 - (stop.at_ms - start.at_ms)) < 60
    assert buffer.length_ms == 0
    with pytest.raises(RequestError, match="needs at least 100 ms"):
        buffer.take()


@pytest.mark.parametrize("piece", [1, 3, 5])
def test_sound_may_be_cut_between_the_bytes_of_a_sample(piece: int) -> None:
    sound = pcm(question()[12_000:24_000])
    whole, pieces = InputBuffer(WireFormat(), None, 30.0), InputBuffer(WireFormat(), None, 30.0)
    whole.push(sound)
    for start in range(0, len(sound), piece):
        pieces.push(sound[start : start + piece])
    np.testing.assert_allclose(pieces.take(), whole.take(), atol=1e-6)
    pieces.push(sound[: piece * 5001])
    pieces.clear()
    pieces.push(sound)
    whole.push(sound)
    np.testing.assert_allclose(pieces.take(), whole.take(), atol=1e-6, err_msg="half a sample was left of a turn")


def test_a_turn_may_end_between_the_bytes_of_a_sample() -> None:
    """Where turns are detected, the sound goes on, and the next turn begins with the byte that was left over."""
    turns = []
    sound = pcm(np.concatenate([question(), question()]))
    for piece in (960, 961):
        buffer = InputBuffer(WireFormat(), VadSettings(), 30.0)
        found = []
        for start in range(0, len(sound), piece):
            if any(not boundary.is_start for boundary in buffer.push(sound[start : start + piece])):
                found.append(buffer.take())
        turns.append(found)
    assert [len(found) for found in turns] == [2, 2]
    for even, odd in zip(*turns, strict=True):
        # Where a turn begins depends a little on the pieces. Bytes of two samples taken for one would be loud noise.
        assert np.abs(odd).max() == pytest.approx(np.abs(even).max(), rel=0.1)
        assert odd.std() == pytest.approx(even.std(), rel=0.1)


def test_a_turn_that_had_begun_is_none_without_detection() -> None:
    buffer = InputBuffer(WireFormat(), VadSettings(), 2.0)
    sound = pcm(question()[: 24_000 * 3 // 2])
    (started,) = buffer.push(sound)
    assert started.is_start
    buffer.configure(buffer.wire, None)
    assert not buffer.is_in_turn
    assert buffer.length_ms > 100, "what was heard stays"
    buffer.configure(buffer.wire, VadSettings())
    assert [found.is_start for found in buffer.push(bytes(48 * 2000))] in ([], [True, False])


# Items


@pytest.mark.parametrize(
    ("heard_ms", "is_whole", "text"),
    [
        (None, True, "one two three four"),
        (1000, True, "one two three four"),
        (500, True, "one two"),
        (380, True, "one"),
        (0, True, ""),
        (1000, False, "one two three"),
        (800, False, "one two"),
    ],
)
def test_what_was_heard_of_an_answer(heard_ms: int | None, is_whole: bool, text: str) -> None:
    item = Item("assistant", text="one two three four", audio_ms=1000, heard_ms=heard_ms, is_whole=is_whole)
    assert item.heard_text == text


def test_a_truncation_may_be_rounded_up_but_not_longer_than_the_answer() -> None:
    conversation = Conversation(max_items=20)
    conversation.add(Item("assistant", id="a", text="one two", audio_ms=1000))
    conversation.truncate("a", 0, 1001)
    assert conversation.find("a").heard_text == "one two"
    with pytest.raises(RequestError, match="1000 ms of sound"):
        conversation.truncate("a", 0, 1002)


def test_a_conversation_forgets_its_oldest_items() -> None:
    conversation = Conversation(max_items=20)
    for number in range(21):
        conversation.add(Item("user", id=str(number), text="x"))
    assert [item.id for item in conversation.items] == ["16", "17", "18", "19", "20"]
    with pytest.raises(RequestError, match="already"):
        conversation.add(Item("user", id="20"))
    assert conversation.add(Item("user", id="a"), "root") is None
    assert conversation.add(Item("user", id="b"), "16") == "16"


def test_long_texts_are_refused() -> None:
    part = {"type": "input_text", "text": "x" * 11}
    with pytest.raises(RequestError, match="11 characters; 10 are allowed"):
        read_item({"type": "message", "role": "user", "content": [part]}, None, 10)


def test_options_that_are_merged_stay_whole() -> None:
    talker = make_talker()
    first = SessionOptions(model="m")
    changes = {"audio": {"input": {"turn_detection": None, "format": {"type": "audio/pcmu"}}}}
    second = first.merged(changes, talker, 100)
    assert second.audio.input.turn_detection is None
    assert second.input_format() == WireFormat("audio/pcmu", 8_000)
    third = second.merged({"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}, talker, 100)
    assert third.audio.input.turn_detection is not None
    assert third.audio.input.turn_detection.silence_duration_ms == 500
    assert third.input_format() == second.input_format()
    with pytest.raises(RequestError, match="101 characters"):
        first.merged({"instructions": "x" * 101}, talker, 100)


# Limits


def test_a_bucket_fills_with_time() -> None:
    now = [0.0]
    bucket = TokenBucket(2, 3, lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 1.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_rates_are_per_address() -> None:
    rate = RateLimit(4, lambda: 0.0)
    rate.check("a")
    with pytest.raises(RequestError, match="4 requests a minute"):
        rate.check("a")
    rate.check("b")


def test_places() -> None:
    admission = Admission(1)
    with admission.place():
        with pytest.raises(RequestError, match="all 1 places"), admission.place():
            pass
        assert admission.taken == 1
    with pytest.raises(ZeroDivisionError), admission.place():
        _ = 1 / 0
    assert admission.taken == 0
    admission.is_closed = True
    with pytest.raises(RequestError, match="shutting down"), admission.place():
        pass


def test_keys_of_any_kind_are_compared() -> None:
    assert same_key("abc", "abc")
    assert not same_key("ab", "abc")
    assert not same_key("", "abc")
    assert not same_key("ü", "abc")


def test_an_outbox_takes_cancelled_sound_back_and_has_an_end() -> None:
    async def work() -> None:
        sent: list[str] = []

        async def send(text: str) -> None:
            sent.append(text)

        box = Outbox(send, 1_000, 1.0)
        box.put("a")
        box.put("sound", sound_of="r1", sound_ms=20.0)
        box.put("sound", sound_of="r2", sound_ms=30.0)
        assert box.drop_sound("r1") == 20.0
        assert box.drop_sound("r1") == 0.0
        box.close()
        await box.run()
        assert len(sent) == 2
        box.put("too late")
        full = Outbox(send, 1_000, 1.0)
        for _ in range(30):
            full.put("x" * 50)
        with pytest.raises(SlowClientError, match="bytes were waiting"):
            await full.run()

        async def never(_: str) -> None:
            await asyncio.sleep(60)

        stuck = Outbox(never, 1_000, 0.05)
        stuck.put("a")
        with pytest.raises(SlowClientError, match="nothing was taken"):
            await stuck.run()

    asyncio.run(work())


# Settings and the command


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_addresses_need_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="no key was given") as error:
        ServeSettings(host=host)
    assert "--api-key" in error.value.hint
    assert not ServeSettings(host=host, api_key="k").is_local


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)
    assert ServeSettings(host=host).is_local


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"api_key": " "}, "key is empty"),
        ({"api_key": "schlüssel"}, "a browser can't send"),
        ({"api_key": "a/b="}, "a browser can't send"),
        ({"tls_cert": Path("cert.pem")}, "one of them"),
        ({"tls_cert": Path("no.pem"), "tls_key": Path("no.pem")}, "doesn't exist"),
        ({"max_sessions": 0}, "max_sessions is 0"),
    ],
)
def test_settings_that_can_not_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ServeSettings(**settings)


def test_files_that_are_no_certificate_are_a_sentence(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_text("not a certificate")
    key.write_text("nor a key")
    with pytest.raises(ConfigError, match="are not a certificate and its key") as error:
        ServeSettings(tls_cert=cert, tls_key=key)
    assert "belong together" in error.value.hint


def test_a_port_in_use_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} can't be opened"):
            open_socket(ServeSettings(port=port))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "no key was given"),
        (["--tls-cert", "x.pem"], "one of them was given"),
    ],
)
def test_the_command_refuses_in_sentences(tmp_path: Path, options: list[str], said: str) -> None:
    from helpers import tiny_talker

    tiny_talker(tmp_path / "t")
    app = build_app(build_plugins(block=(), third_party=False), only="serve")
    found = CliRunner().invoke(app, ["serve", str(tmp_path / "t"), *options], env={"ANYTALK_API_KEY": None})
    assert found.exit_code == 1
    assert said in " ".join(found.output.split())
    missing = CliRunner().invoke(app, ["serve", str(tmp_path / "nothing")])
    assert missing.exit_code == 1


def test_the_command_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, anytalk.cli.serve; assert not {'torch', 'fastapi'} & set(sys.modules), 'heavy'"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The page


def test_the_page_is_a_list_of_files() -> None:
    found = page_files()
    assert all(path.startswith("/") and ".." not in path and "{" not in path for path in found)
    assert ("/" in found) == ("/index.html" in found)
    assert not [path for path in found if path.endswith((".py", ".md"))]
