"""Conversations: what comes out piece by piece is what would come out whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from talkers import end_audio_after, end_text_after, make_talker

from anytalk.decode import session as session_module
from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.session import Event, Session, listen
from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta
from anytalk.errors import AudioError, ConfigError, TalkerError, UnknownNameError
from anytalk.grid.delay import PATTERNS
from anytalk.model.talker import Talker
from anytalk.plugins import PartRef
from anytalk.plugins.codec_stream import WindowedStream
from anytalk.plugins.contracts import Codec, CodecStream

WAVE = (0.3 * np.sin(np.arange(8000) / 9)).astype(np.float32)
"""Half a second at 16 kHz."""


@pytest.fixture
def generations(monkeypatch: pytest.MonkeyPatch) -> list[Generation]:
    """Every generation that a session makes, in order."""
    made: list[Generation] = []

    class Kept(Generation):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(session_module, "Generation", Kept)
    return made


def options(max_columns: int = 20, **more: Any) -> DecodeOptions:
    return DecodeOptions(max_columns=max_columns, **more)


def split(events: Iterator[Event]) -> tuple[str, np.ndarray, AnswerDone]:
    """Joined text, joined sound, and the end, which must come last and once."""
    found = list(events)
    assert [isinstance(event, AnswerDone) for event in found] == [False] * (len(found) - 1) + [True]
    text = "".join(event.text for event in found if isinstance(event, TextDelta))
    waves = [event.wave for event in found if isinstance(event, AudioDelta)]
    assert all(wave.dtype == np.float32 and len(wave) for wave in waves)
    done = found[-1]
    assert isinstance(done, AnswerDone)
    return text, np.concatenate([np.zeros(0, np.float32), *waves]), done


class BlurredCodec(Codec):
    """The talker's own codec, each sample mixed with those one frame before and behind: it needs context."""

    context_frames = (1, 1)

    def __init__(self, inner: Codec) -> None:
        super().__init__()
        self.inner = inner
        self.sample_rate_hz, self.samples_per_frame = inner.sample_rate_hz, inner.samples_per_frame
        self.num_streams, self.codebook_size = inner.num_streams, inner.codebook_size

    @classmethod
    def build(cls, options: Any, context: Any) -> BlurredCodec:
        return cls(options)

    def encode(self, wave: torch.Tensor) -> torch.Tensor:
        return self.inner.encode(wave)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        wave, size = self.inner.decode(codes), self.samples_per_frame
        padded = torch.nn.functional.pad(wave, (size, size))
        return wave + 0.5 * padded[:, : wave.shape[1]] + 0.25 * padded[:, 2 * size :]

    def new_stream(self) -> CodecStream:
        return WindowedStream(
            lambda codes, _: self.decode(codes), self.num_streams, self.samples_per_frame, self.context_frames
        )


# Streaming


@pytest.mark.parametrize("stride", [1, 2, 3, 50])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("stops", [True, False])
def test_streamed_sound_is_the_offline_sound(
    stride: int, pattern: str, stops: bool, generations: list[Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = make_talker(pattern=pattern)
    talker._codec = BlurredCodec(talker.codec)
    end_text_after(talker, 4, monkeypatch)
    end_audio_after(talker, 9 if stops else 999, monkeypatch)
    _, wave, done = split(Session(talker, stride_frames=stride).ask(text="hi", options=options(22)))
    codes = torch.from_numpy(generations[0].answer.codes())
    offline = talker.codec.decode(codes[None])[0].numpy()
    assert np.array_equal(wave, offline)
    assert len(wave) > 0
    assert done.num_frames == codes.shape[1]
    assert done.finish_reason == ("stop" if stops else "length")
    assert done.audio_s == len(wave) / talker.codec.sample_rate_hz


def test_sound_comes_before_the_answer_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    end_text_after(talker, 4, monkeypatch)
    end_audio_after(talker, 12, monkeypatch)
    kinds = [type(event) for event in Session(talker).ask(text="hi", options=options(40))]
    assert kinds.count(AudioDelta) == 11
    assert kinds.index(AudioDelta) <= 4


@pytest.mark.parametrize("rule", ["staircase", "original"])
def test_pieces_of_text_join_to_the_whole(rule: str) -> None:
    text, _, done = split(Session(make_talker()).ask(text="hi", options=options(30, rule=rule)))
    assert text == done.text
    assert text


def test_no_piece_cuts_a_character_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    end_audio_after(talker, 5, monkeypatch)
    words = "Grüße 😀 an 世界"
    events = list(Session(talker).ask(text=words, task="T1A1", options=options(60)))
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert "".join(pieces) == words
    assert "ü" in pieces
    assert "😀" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_answer_without_sound() -> None:
    text, wave, done = split(Session(make_talker()).ask(wave=WAVE, task="a1t2", options=options(6)))
    assert len(wave) == 0
    assert (done.first_audio_s, done.real_time_factor, done.audio_s, done.num_frames) == (None, None, 0.0, 0)
    assert text == done.text


def test_times_are_told() -> None:
    _, _, done = split(Session(make_talker()).ask(text="hi", options=options(12)))
    assert done.first_audio_s is not None
    assert 0 < done.first_audio_s <= done.wall_s
    assert done.real_time_factor == done.wall_s / done.audio_s
    assert done.num_columns == 12


def test_the_caller_keeps_its_gradients() -> None:
    events = Session(make_talker()).ask(text="hi", options=options(8))
    next(events)
    assert torch.is_grad_enabled()
    rest = list(events)
    assert isinstance(rest[-1], AnswerDone)


def test_the_talkers_own_rule_is_the_default(generations: list[Generation]) -> None:
    talker = make_talker()
    talker.config = talker.config.replace(decode_rule="original")
    next(Session(talker).ask(text="hi"))
    assert generations[0].options.rule == "original"


# Turns


def user_words(talker: Talker, generation: Generation) -> str:
    row = generation.prompts[0].tokens[talker.model.layout.text_row]
    return talker.model.backbone.tokenizer.decode(row.tolist())


@pytest.mark.parametrize("prompt", ["chat", "raw"])
def test_a_conversation_is_remembered(prompt: str, generations: list[Generation]) -> None:
    talker = make_talker(prompt=prompt)
    session = Session(talker)
    _, _, first = split(session.ask(wave=WAVE, options=options(5)))
    split(session.ask(text="and then?", options=options(5)))
    split(session.ask(wave=WAVE[:4000], options=options(5)))
    spans = [generation.prompts[0].speech_spans for generation in generations]
    # 25 and 13 encoder frames, five to a column.
    assert [[count for _, count in found] for found in spans] == [[5], [5], [5, 3]]
    assert [len(generation.speech) for generation in generations] == [1, 1, 2]
    assert [e.shape[0] for e in generations[2].speech] == [5, 3]
    words = user_words(talker, generations[2])
    assert "and then?" in words
    assert first.text in words
    session.reset()
    split(session.ask(text="anew", options=options(5)))
    assert "and then?" not in user_words(talker, generations[3])
    assert generations[3].prompts[0].speech_spans == ()


def test_an_abandoned_answer_and_a_transcript_are_not_remembered(generations: list[Generation]) -> None:
    talker = make_talker()
    session = Session(talker)
    abandoned = session.ask(text="first", options=options(9))
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]
    split(session.ask(wave=WAVE, task="A1T1", options=options(4)))
    split(session.ask(text="aloud", task="T1A1", options=options(12)))
    split(session.ask(text="second", options=options(4)))
    words = user_words(talker, generations[-1])
    assert "second" in words
    assert "first" not in words
    assert "aloud" not in words
    assert generations[-1].prompts[0].speech_spans == ()


def test_nothing_runs_before_the_first_piece_is_wanted(generations: list[Generation]) -> None:
    Session(make_talker()).ask(text="hi")
    assert generations == []


@pytest.mark.parametrize("batch_parallel", [True, False])
def test_rows_follow_the_task_and_the_options(batch_parallel: bool, generations: list[Generation]) -> None:
    session = Session(make_talker())
    for task in ("T1A2", "T1T2"):
        split(session.ask(text="hi", task=task, options=options(4, batch_parallel=batch_parallel)))
    assert [len(generation.prompts) for generation in generations] == [2 if batch_parallel else 1, 1]


def test_voices_by_name(generations: list[Generation]) -> None:
    session = Session(make_talker(speakers=("anna", "bob")))
    split(session.ask(text="hi", speaker="bob", options=options(4)))
    split(session.ask(text="hi", options=options(4)))
    assert [generation.speaker for generation in generations] == [1, 0]
    with pytest.raises(TalkerError, match="unknown voice 'carl'"):
        list(session.ask(text="hi", speaker="carl"))


# Ears


def test_speech_is_embedded_at_the_adapters_rate() -> None:
    talker = make_talker()
    embeds, quieter = (listen(talker, wave).columns for wave in (WAVE, WAVE * 0.1))
    assert embeds is not None
    assert quieter is not None
    assert embeds.shape == (5, talker.model.backbone.width)
    assert not embeds.requires_grad
    assert not torch.equal(embeds, quieter)


def test_what_is_heard_changes_what_is_said() -> None:
    talker = make_talker(prompt="raw", merge="mean")
    waves = [WAVE, np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.3]
    answers = [split(Session(talker).ask(wave=wave, options=options(20))) for wave in waves]
    assert not np.array_equal(answers[0][1], answers[1][1])


# Mistakes


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({}, "either a typed or a spoken question"),
        ({"text": "hi", "wave": WAVE}, "either a typed or a spoken question"),
        ({"text": " \n"}, "the question is empty"),
        ({"text": "hi", "task": "A1A2"}, "needs a spoken question; a typed one was given"),
        ({"wave": WAVE, "task": "T1A2"}, "needs a typed question; a spoken one was given"),
        ({"text": "hi", "task": "T9"}, "unknown task 'T9'"),
    ],
)
def test_questions_that_can_not_be_asked(question: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=said):
        Session(make_talker()).ask(**question)


def test_how_long_a_question_may_be_is_the_encoders_to_say() -> None:
    def session(max_duration_s: float | None) -> Session:
        talker = make_talker()
        encoder = PartRef(name="tiny", options={"max_duration_s": max_duration_s})
        talker.model.encoder = talker.registry.build("speech encoder", encoder)
        return Session(talker)

    long = np.tile(WAVE, int(31 * 16_000 / len(WAVE)) + 1)
    assert split(session(None).ask(wave=long, options=options()))[2].num_columns > 0
    with pytest.raises(AudioError, match="may last 30 s"):
        list(session(30).ask(wave=long))
    with pytest.raises(AudioError, match=r"may last 0\.2 s"):
        list(session(0.2).ask(wave=WAVE))


@pytest.mark.parametrize(
    ("wave", "said"),
    [
        (np.zeros(8000, np.float32), "is silent"),
        (WAVE[:100], "at least 0.1 s"),
        (np.stack([WAVE, WAVE]), r"\(N,\) mono is expected"),
    ],
)
def test_waves_that_are_no_question(wave: np.ndarray, said: str) -> None:
    with pytest.raises(AudioError, match=said):
        list(Session(make_talker()).ask(wave=wave))


def test_a_talker_without_ears_says_so() -> None:
    session = Session(make_talker(ears=False))
    with pytest.raises(ConfigError, match="no ears"):
        list(session.ask(wave=WAVE))
    assert split(session.ask(text="hi", options=options(4)))[2].num_columns == 4


def test_a_stride_is_at_least_one_frame() -> None:
    with pytest.raises(ConfigError, match="stride_frames is 0"):
        Session(make_talker(), stride_frames=0)
