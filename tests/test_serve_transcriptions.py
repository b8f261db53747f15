"""Sound files as text: in every format, at any length where the ears write, with the times of words and segments."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import soundfile
from serve_lab import Running, is_idle, pcm, question, run, running, talking
from talkers import make_talker
from tools_lab import scripted_talker, weather
from torch import Tensor

from anytalk.errors import ConfigError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Ears, Heard, HeardWord, Hints

RATE_HZ = 16_000


class CountingEars(Ears):
    """Hear how loud each second is, in hundredths, and are cut in the first pause after a second."""

    @classmethod
    def build(cls, options: object, context: BuildContext) -> CountingEars:
        return cls()

    @property
    def sample_rate_hz(self) -> int:
        return RATE_HZ

    @property
    def max_duration_s(self) -> float:
        return 8.0

    def first_cut(self, wave: Tensor) -> int:
        quiet = (wave[RATE_HZ:] == 0).nonzero()[:, 0]
        loud = (wave != 0).nonzero()[:, 0]
        return int(quiet[0]) + RATE_HZ if len(quiet) and len(loud) and loud[-1] > quiet[0] + RATE_HZ else 0

    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        return [Heard(text=f"level {round(float(wave.abs().max()) * 100)}") for wave in waves]


class TimingEars(CountingEars):
    """Also tell when each word was said."""

    def word_times(self, wave: Tensor, text: str) -> list[HeardWord]:
        first = float((wave != 0).nonzero()[0, 0]) / RATE_HZ
        return [HeardWord(word, first + n / 2, first + n / 2 + 0.4) for n, word in enumerate(text.split())]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make_talker(), max_columns=24) as found:
        yield found


@pytest.fixture(scope="module", params=[CountingEars, TimingEars])
def writer(request: pytest.FixtureRequest) -> Iterator[Running]:
    talker = scripted_talker(weather)
    talker.model.ears = request.param()
    with running(talker, max_sessions=1, max_file_s=60.0) as found:
        yield found


def wav(rate_hz: int = RATE_HZ) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, question(rate_hz=rate_hz), rate_hz, format="WAV", subtype="PCM_16")
    return out.getvalue()


def flac(wave: np.ndarray) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, wave, RATE_HZ, format="FLAC")
    return out.getvalue()


def silence(seconds: int) -> bytes:
    return flac(np.zeros(RATE_HZ * seconds, np.int16))


def spoken(count: int) -> bytes:
    """Two seconds at each of `count` levels from 0.01 on, half a second of silence around each."""
    pieces = [np.full(2 * RATE_HZ, (n + 1) / 100, np.float32) for n in range(count)]
    quiet = np.zeros(RATE_HZ // 2, np.float32)
    return flac(np.concatenate([quiet, *(part for piece in pieces for part in (piece, quiet))]))


def test_writing_down(server: Running) -> None:
    async def ask() -> None:
        async with server.client() as client:
            transcribe = client.audio.transcriptions.create
            found = await transcribe(model="tiny", file=("q.wav", wav()))
            assert isinstance(found.text, str)
            text = await transcribe(model="tiny", file=("q.wav", wav(48_000)), response_format="text")
            assert isinstance(text, str)
            verbose = await transcribe(model="tiny", file=("q.wav", wav()), response_format="verbose_json")
            assert float(verbose.duration) == pytest.approx(len(question(rate_hz=RATE_HZ)) / RATE_HZ, abs=0.01)
            assert verbose.text == found.text
            stream = await transcribe(model="tiny", file=("q.wav", wav()), stream=True)
            events = [event async for event in stream]
            assert events[-1].type == "transcript.text.done"
            assert events[-1].text == found.text
            assert "".join(e.delta for e in events if e.type == "transcript.text.delta").strip() == found.text
            for file, said in ((b"no sound", "not a sound file"), (silence(600), "lasts more than 30 s")):
                with pytest.raises(openai.BadRequestError, match=said) as refused:
                    await transcribe(model="tiny", file=("q.flac", file))
                assert " 0x" not in refused.value.message, "no address of memory"

    run(ask())


@pytest.mark.parametrize(("name", "mark"), [("srt", ","), ("vtt", ".")])
def test_subtitles_and_silence(server: Running, name: str, mark: str) -> None:
    async def ask() -> None:
        async with server.client() as client:
            transcribe = client.audio.transcriptions.create
            text = (await transcribe(model="tiny", file=("q.wav", wav()))).text
            found = str(await transcribe(model="tiny", file=("q.wav", wav()), response_format=name))  # type: ignore[call-overload]
            assert f"00:00:00{mark}680 --> 00:00:02" in found, "silence in front and after it is left out"
            assert text in found
            assert ("WEBVTT" in found) == (name == "vtt")
            nothing = str(await transcribe(model="tiny", file=("q.flac", silence(2)), response_format=name))  # type: ignore[call-overload]
            assert "-->" not in nothing
            assert (await transcribe(model="tiny", file=("q.flac", silence(2)))).text == ""

    run(ask())


def test_a_long_file_is_cut_at_silences(writer: Running) -> None:
    async def ask() -> None:
        async with writer.client() as client:
            transcribe, file = client.audio.transcriptions.create, ("q.flac", spoken(20))
            whole = " ".join(f"level {n + 1}" for n in range(20))
            assert (await transcribe(model="any", file=file)).text == whole
            verbose = await transcribe(model="any", file=file, response_format="verbose_json")
            assert [s.text for s in verbose.segments or ()] == [f"level {n + 1}" for n in range(20)]
            for n, segment in enumerate(verbose.segments or ()):
                assert (segment.start, segment.end) == pytest.approx((0.5 + 2.5 * n, 2.5 + 2.5 * n), abs=0.021)
            found = str(await transcribe(model="any", file=file, response_format="srt"))  # type: ignore[call-overload]
            assert "20\n00:00:48,000 --> 00:00:50,000\nlevel 20\n" in found
            events = [event async for event in await transcribe(model="any", file=file, stream=True)]
            deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
            assert len(deltas) == 20
            assert "".join(deltas) == events[-1].text == whole  # type: ignore[union-attr]
            with pytest.raises(openai.BadRequestError, match="lasts more than 60 s"):
                await transcribe(model="any", file=("q.flac", spoken(25)))
            with pytest.raises(openai.BadRequestError, match="8 s at once"):
                await transcribe(model="any", file=("q.flac", flac(np.full(9 * RATE_HZ, 0.1, np.float32))))

    run(ask())
    assert is_idle(writer)


def test_times_of_words_are_told_or_refused(writer: Running) -> None:
    async def ask() -> None:
        async with writer.client() as client:
            wanted: dict[str, Any] = {"model": "any", "file": ("q.flac", spoken(2)), "response_format": "verbose_json"}
            asked = client.audio.transcriptions.create(**wanted, timestamp_granularities=["word"])
            if not isinstance(writer.state.talker.model.ears, TimingEars):
                with pytest.raises(openai.BadRequestError, match="these ears give no times of words"):
                    await asked
                return
            verbose = await asked
            words = [(word.word, word.start, word.end) for word in verbose.words]
            assert words == [("level", 0.5, 0.9), ("1", 1.0, 1.4), ("level", 3.0, 3.4), ("2", 3.5, 3.9)]
            assert verbose.segments is None
            both = await client.audio.transcriptions.create(**wanted, timestamp_granularities=["word", "segment"])
            assert (len(both.words), len(both.segments)) == (4, 2)

    run(ask())


def test_a_client_that_leaves_is_written_down_no_further(writer: Running) -> None:
    with httpx2.Client(base_url=f"http://{writer.address}", timeout=30) as client:
        body = {"files": {"file": ("q.flac", spoken(20))}, "data": {"stream": "true"}}
        with client.stream("POST", "/v1/audio/transcriptions", **body) as answer:
            next(answer.iter_lines())
    writer.wait_until(lambda: is_idle(writer))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"response_format": "ass"}, "response_format is 'ass'"),
        ({"response_format": "srt", "stream": "true"}, "srt is not streamed"),
        ({"timestamp_granularities[]": "word"}, "only verbose_json has times"),
        ({"timestamp_granularities[]": "sentence", "response_format": "verbose_json"}, "'sentence' is unknown"),
        ({"timestamp_granularities[]": "word", "response_format": "verbose_json"}, "these ears give no"),
        ({"include[]": "logprobs"}, "no log probabilities"),
        ({"chunking_strategy": "auto"}, "cut at silences"),
        ({"known_speaker_names[]": "Ann"}, "`known_speaker_names[]` is unknown"),
        ({"temperature": "-1"}, "temperature"),
        ({"language": "de"}, "can't be told a language, 'de' was given"),
        ({"prompt": "Ann"}, "don't read a text"),
        ({"prompt": "Ann " * 2_501}, "10000 are allowed"),
    ],
)
def test_what_is_not_done_is_refused(server: Running, fields: dict[str, str], said: str) -> None:
    answer = post(server, **fields)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def post(server: Running, **fields: str) -> httpx2.Response:
    with httpx2.Client(base_url=f"http://{server.address}", timeout=30) as client:
        return client.post("/v1/audio/transcriptions", files={"file": ("q.wav", wav())}, data=fields)


def test_what_stock_clients_send_unasked(server: Running, writer: Running) -> None:
    """Ears that can't be told anything take English for what they hear anyway, and no prompt."""
    plain = post(server).json()
    for fields in ({"language": "en"}, {"language": "en-US"}, {"language": "", "prompt": " "}, {"temperature": "0"}):
        assert post(server, **fields).json() == plain
    assert post(server, temperature="0.5").status_code == 200
    answer = post(writer, temperature="0.5")
    assert (answer.status_code, "likeliest words" in answer.json()["error"]["message"]) == (400, True)


class ToldEars(TimingEars):
    """Write down what they were told."""

    def __init__(self, hints: Hints | None = None) -> None:
        super().__init__()
        self.hints = hints or Hints()

    def first_cut(self, wave: Tensor) -> int:
        return 0

    def hinted(self, hints: Hints) -> ToldEars:
        if hints.language == "xx":
            raise ConfigError("language 'xx' is unknown", "give a code")
        return ToldEars(hints)

    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        return [Heard(text=f"{self.hints.language} {self.hints.prompt}".strip()) for _ in waves]

    def word_times(self, wave: Tensor, text: str) -> list[HeardWord]:
        return [HeardWord(str(self.hints.language), 0.0, 0.5)]


@pytest.fixture(scope="module")
def told() -> Iterator[Running]:
    talker = scripted_talker(weather)
    talker.model.ears = ToldEars()
    with running(talker, max_file_s=60.0) as found:
        yield found


def test_ears_are_told_the_language_and_the_prompt(told: Running) -> None:
    async def ask() -> None:
        async with told.client() as client:
            transcribe = client.audio.transcriptions.create
            for fields, heard in (
                ({}, "None"),
                ({"language": "de"}, "de"),
                ({"language": "de", "prompt": "Grüße "}, "de Grüße"),
                ({"prompt": "Ann, Bob"}, "None Ann, Bob"),
            ):
                assert (await transcribe(model="any", file=("q.wav", wav()), **fields)).text == heard
            verbose = await transcribe(
                model="any",
                file=("q.wav", wav()),
                language="fr",
                response_format="verbose_json",
                timestamp_granularities=["word"],
            )
            assert (verbose.language, [word.word for word in verbose.words]) == ("fr", ["fr"])
            with pytest.raises(openai.BadRequestError, match="'xx' is unknown") as refused:
                await transcribe(model="any", file=("q.wav", wav()), language="xx")
            assert refused.value.param == "language"

    run(ask())


def test_many_at_once_are_told_apart(told: Running) -> None:
    async def ask(client: Any, language: str) -> str:
        return (await client.audio.transcriptions.create(model="any", file=("q.wav", wav()), language=language)).text

    async def ask_all() -> list[str]:
        async with told.client() as client:
            return await asyncio.gather(*(ask(client, language) for language in ("de", "fr", "de", "en")))

    assert run(ask_all()) == ["de", "fr", "de", "en"]


def test_a_session_tells_its_ears(told: Running) -> None:
    """What comes after an update is heard so: turns, and items with sound."""

    async def talk() -> None:
        async with talking(told, audio={"input": {"turn_detection": None, "transcription": {}}}) as client:
            for asked, heard in (
                ({"language": "de", "prompt": "Grüße"}, "de Grüße"),
                ({"language": None, "languages": ["fr"], "prompt": None, "keywords": ["Ann", "Bob"]}, "fr Ann, Bob"),
                ({"language": "xx"}, "fr Ann, Bob"),
            ):
                updated = await client.setup(audio={"input": {"transcription": asked}})
                left_out = getattr(updated, "anytalk", {}).get("left_out", [])
                names = [field["param"].rpartition(".")[2] for field in left_out]
                assert names == (["language"] if asked == {"language": "xx"} else [])
                await client.say(pcm(question(rate_hz=24_000)))
                await client.connection.input_audio_buffer.commit()
                completed = "conversation.item.input_audio_transcription.completed"
                assert (await client.until(completed)).transcript == heard
            both = await client.setup(audio={"input": {"transcription": {"languages": ["de", "fr"]}}})
            assert "one language" in both.anytalk["left_out"][0]["reason"]

    run(talk())
