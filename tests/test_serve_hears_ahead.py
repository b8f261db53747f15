"""Turns are listened to while their last silence lasts, so that an answer needn't wait for the ears."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from serve_lab import Running, Talk, num_answers, pcm, question, run, running, slow_down, talking
from talkers import make_talker
from torch import Tensor

from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Ears, Heard
from anytalk.serve.realtime.input_buffer import InputBuffer
from anytalk.serve.realtime.vad import VadSettings
from anytalk.serve.sound import WireFormat

SILENCE = np.zeros(24_000, np.float32)


class Counting(Ears):
    """Writes how many clips it heard, and keeps their lengths in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths_s: list[float] = []

    @classmethod
    def build(cls, options: object, context: BuildContext) -> Counting:
        return cls()

    @property
    def sample_rate_hz(self) -> int:
        return 16_000

    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        self.lengths_s += [len(wave) / 16_000 for wave in waves]
        return [Heard(text=f"clip {len(self.lengths_s)}") for _ in waves]


@pytest.fixture
def ears() -> Counting:
    return Counting()


@pytest.fixture
def server(ears: Counting) -> Iterator[Running]:
    talker = make_talker()
    talker.model.ears = ears
    with running(talker) as found:
        yield found


SESSION = {"audio": {"input": {"transcription": {"model": "any"}}}}
DONE = "conversation.item.input_audio_transcription.completed"
SPOKEN = question()[:-24_000]  # ends with the last word


def test_a_turn_was_heard_when_its_silence_is_over(server: Running, ears: Counting) -> None:
    async def talk() -> None:
        async with talking(server, **SESSION) as found:
            await found.say(pcm(np.concatenate([SPOKEN, SILENCE[:9_600]])))
            await found.until("input_audio_buffer.speech_started")
            server.wait_until(lambda: len(ears.lengths_s) == 1)
            assert "input_audio_buffer.speech_stopped" not in found.types()
            await found.say(pcm(SILENCE))
            assert (await found.until(DONE)).transcript == "clip 1"
            await found.until("response.done")

    run(talk())
    # Neither the answer nor the transcript had it heard again.
    assert len(ears.lengths_s) == 1


def test_who_goes_on_after_a_pause_is_heard_from_the_beginning(server: Running, ears: Counting) -> None:
    async def talk() -> None:
        async with talking(server, **SESSION) as found:
            await found.say(pcm(np.concatenate([SPOKEN, SILENCE[:4_800]])))
            server.wait_until(lambda: len(ears.lengths_s) == 1)
            await found.say(pcm(np.concatenate([question(2)[14_000:], SILENCE])))
            assert (await found.until(DONE)).transcript == f"clip {len(ears.lengths_s)}"
            assert found.types().count("input_audio_buffer.speech_stopped") == 1

    run(talk())
    assert ears.lengths_s == sorted(ears.lengths_s)
    # What lies 0.3 s before the first word belongs to it.
    whole_s = (len(SPOKEN) + 4_800 + len(question(2)) - 36_000 - 7_200) / 24_000
    assert ears.lengths_s[-1] == pytest.approx(whole_s, abs=0.5)


def test_nobody_is_listened_to_ahead_while_an_answer_is_spoken(server: Running, ears: Counting) -> None:
    slow_down(server, 0.05)

    async def talk() -> None:
        async with talking(server) as speaker, talking(server, **SESSION) as found:
            await speaker.type("Hello!")
            await speaker.connection.response.create()
            await speaker.until("response.output_audio.delta")
            await found.say(pcm(np.concatenate([SPOKEN, SILENCE[:9_600]])))
            await found.until("input_audio_buffer.speech_started")
            await speaker.until("response.done")
            server.wait_until(lambda: len(ears.lengths_s) == 1)
            assert num_answers(server.state.model) == 0

    run(talk())


def test_a_pause_is_known_until_the_next_turn() -> None:
    buffer = InputBuffer(WireFormat(), VadSettings(), 30.0)
    wave = np.concatenate([SPOKEN, SILENCE[:7_200]])
    for start in range(0, len(wave), 2_400):
        assert buffer.push(pcm(wave[start : start + 2_400])) == [] or buffer.is_in_turn
    assert buffer.pause is not None
    began, lasts_ms = buffer.pause
    assert began / 16_000 == pytest.approx(len(SPOKEN) / 24_000, abs=0.3)
    assert 150 <= lasts_ms <= 600
    held = buffer.so_far()
    assert len(held) // 16 == buffer.length_ms
    assert np.array_equal(buffer.take()[: len(held)], held)


class Cutting(Counting):
    """Cuts every three seconds, and writes what it heard by its length."""

    def first_cut(self, wave: Tensor) -> int:
        return 48_000 if len(wave) > 56_000 else 0

    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        self.lengths_s += [len(wave) / 16_000 for wave in waves]
        return [Heard.joined([self._words(piece) for piece in self._cut(wave)]) for wave in waves]

    def _cut(self, wave: Tensor) -> list[Tensor]:
        at = self.first_cut(wave)
        return [wave[:at], *self._cut(wave[at:])] if at else [wave]

    def _words(self, wave: Tensor) -> Heard:
        return Heard(text=f"{len(wave)} samples, {float(wave.abs().sum()):.1f} in all,")


LONG = np.concatenate([question()[:-24_000], question(2)[12_000:-24_000]] * 2)
DELTA = "conversation.item.input_audio_transcription.delta"
HELD = {"audio": {"input": {"transcription": {"model": "any"}, "turn_detection": None}}}


@pytest.fixture
def cutting() -> Iterator[tuple[Running, Cutting]]:
    talker, ears = make_talker(), Cutting()
    talker.model.ears = ears
    with running(talker) as found:
        yield found, ears


def transcript(found: Talk) -> str:
    """The sum of the deltas, which is what was completed."""
    told = "".join(event.delta for event in found.events if event.type == DELTA)
    (done,) = [event for event in found.events if event.type == DONE]
    assert told == done.transcript
    assert len({event.item_id for event in found.events if event.type in (DELTA, DONE)}) == 1
    return told


def test_what_is_certain_is_told_while_a_turn_is_spoken(cutting: tuple[Running, Cutting]) -> None:
    server, ears = cutting

    async def talk() -> None:
        patient = {"type": "server_vad", "silence_duration_ms": 1_500}
        async with talking(server, audio={"input": {**HELD["audio"]["input"], "turn_detection": patient}}) as found:
            await found.say(pcm(LONG[: 5 * 24_000]))
            first = await found.until(DELTA)
            assert first.delta.startswith("48000 samples")
            assert "input_audio_buffer.speech_stopped" not in found.types()
            began = next(event for event in found.events if event.type == "input_audio_buffer.speech_started")
            assert first.item_id == began.item_id
            await found.say(pcm(np.concatenate([LONG[5 * 24_000 :], SILENCE, SILENCE])))
            committed = await found.until("input_audio_buffer.committed")
            assert committed.item_id == began.item_id
            await found.until(DONE)
            assert transcript(found).count("48000 samples") == ears.lengths_s.count(3.0)
            await found.until("response.done")

    run(talk())
    # Each piece once; what follows the last cut may have been heard in several pauses.
    assert ears.lengths_s.count(3.0) == len(LONG) // 72_000


def test_a_turn_that_is_held_is_heard_while_it_comes(cutting: tuple[Running, Cutting]) -> None:
    server, ears = cutting

    async def talk() -> str:
        async with talking(server, **HELD) as found:
            await found.say(pcm(LONG))
            server.wait_until(lambda: len(ears.lengths_s) == len(LONG) // 72_000)
            assert DELTA not in found.types()
            await found.connection.input_audio_buffer.commit()
            await found.until(DONE)
            return transcript(found)

    said = run(talk())
    *pieces, rest = ears.lengths_s
    assert pieces == [3.0] * (len(LONG) // 72_000)
    assert rest == pytest.approx(len(LONG) % 72_000 / 24_000, abs=0.01)
    # In pieces as they came, or in one go: the same sound, cut at the same places, is the same words.
    assert said == run(at_once(server))


async def at_once(server: Running) -> str:
    async with talking(server, **HELD) as found:
        await found.connection.input_audio_buffer.append(audio=base64.b64encode(pcm(LONG)).decode())
        await found.connection.input_audio_buffer.commit()
        await found.until(DONE)
        return transcript(found)


def test_a_turn_that_is_dropped_is_not_heard_any_further(cutting: tuple[Running, Cutting]) -> None:
    server, ears = cutting
    slow_down(server, 0.05)

    async def talk() -> None:
        async with talking(server) as speaker, talking(server, **HELD) as found:
            await speaker.type("Hello!")
            await speaker.connection.response.create()
            await speaker.until("response.output_audio.delta")
            await found.say(pcm(LONG))
            await found.connection.input_audio_buffer.clear()
            await found.until("input_audio_buffer.cleared")
            await speaker.until("response.done")
            await found.type("And now?")
            await found.answer()

    run(talk())
    assert ears.lengths_s == []


def test_pauses_that_are_heard_are_bounded(server: Running, ears: Counting) -> None:
    word, gap = SPOKEN[12_000:21_600], SILENCE[:7_200]

    async def talk() -> None:
        async with talking(server) as found:
            await found.say(pcm(np.concatenate([SPOKEN, gap, *[word, gap] * 12])))
            await found.until("input_audio_buffer.speech_started")
            await found.type("x")

    run(talk())
    seconds = (len(SPOKEN) + 13 * len(gap) + 12 * len(word)) / 24_000
    assert 1 <= len(ears.lengths_s) <= 5 + seconds / 2
