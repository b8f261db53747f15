"""Turns are listened to while their last silence lasts, so that an answer needn't wait for the ears."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from serve_lab import Running, pcm, question, run, running, slow_down, talking
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
            assert server.state.model.num_answers == 0

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
