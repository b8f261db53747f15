"""Whisper's decoder as a writer: its cache, when it is stopped, and when nothing was said."""

from typing import Any

import pytest
import torch
from torch import Tensor
from whisper.decoding import detect_language
from whisper.model import ModelDimensions, Whisper

from anytalk.errors import ConfigError
from anytalk.plugins.contracts import Hints
from anytalk_adapters.whisper_weights import writer_tokenizer
from anytalk_adapters.whisper_window import Window
from anytalk_adapters.whisper_writer import WhisperWriter, loop_length, says_nothing


def toy(vocabulary: int = 51_864) -> Whisper:
    torch.manual_seed(0)
    model = Whisper(ModelDimensions(80, 1500, 32, 2, 2, vocabulary, 64, 32, 2, 2)).eval()
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.1)  # Whisper leaves it as the memory was
    return model


def test_the_cache_changes_nothing() -> None:
    model, features = toy(), torch.randn(40, 32)
    written = WhisperWriter(model, None)(Window(features), 1.0)
    tokenizer = writer_tokenizer(model)
    ids = [*tokenizer.sot_sequence_including_notimestamps]
    start, mask = len(ids), WhisperWriter(model, None)._forbidden(tokenizer, features.device)
    for number in range(10 + 8):
        with torch.no_grad():
            logits = model.decoder(torch.tensor([ids]), features[None])[0, -1].masked_fill(mask, -torch.inf)
        if not number:
            logits[[tokenizer.eot, *tokenizer.encode(" ")]] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == tokenizer.eot or loop_length(ids[start:]):
            break
    said = ids[start : -1 if ids[-1] == tokenizer.eot else None]
    kept = said[: len(said) - loop_length(said)]
    assert written.text == tokenizer.decode(kept).strip()


def test_what_it_is_told_stands_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt's end, as openai-whisper cuts it, and the language's mark; weights are shared."""
    model, shown = toy(51_865), list[list[int]]()
    own, tokenizer = WhisperWriter(model, "en"), writer_tokenizer(model, "de")
    step = WhisperWriter._step

    def keep(writer: WhisperWriter, ids: list[int], position: int, *rest: Any) -> torch.Tensor:
        shown.append(ids)
        return step(writer, ids, position, *rest)

    monkeypatch.setattr(WhisperWriter, "_step", keep)
    for hints, before, language in (
        (Hints(), [], "en"),
        (Hints(language="German"), [], "de"),
        (Hints(language="de-AT", prompt="Onion"), tokenizer.encode(" Onion"), "de"),
        (Hints(prompt="one " * 99), tokenizer.encode(" " + "one " * 99)[-31:], "en"),
    ):
        told = own.hinted(hints)
        assert told.decoder is model.decoder
        shown.clear()
        told(Window(torch.randn(40, 32)), 1.0)
        start = list(writer_tokenizer(model, language).sot_sequence_including_notimestamps)
        assert shown[0] == [*([tokenizer.sot_prev, *before] if before else []), *start]


@pytest.mark.parametrize(
    ("size", "language", "said"),
    [(51_864, "de", "hear English only, language 'de'"), (51_865, "xx", "'xx' is unknown"), (51_865, "", "'' is")],
)
def test_a_language_that_it_can_not_be_told(size: int, language: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WhisperWriter(toy(size), None).hinted(Hints(language=language))


def test_frames_that_stand_for_others_count_as_often() -> None:
    torch.manual_seed(1)
    model, features = toy(), torch.randn(6, 32)
    counts = torch.tensor([1, 1, 1, 1, 5, 3])
    short = WhisperWriter(model, None)(Window(features, counts.log()), 1.0)
    long = WhisperWriter(model, None)(Window(features.repeat_interleave(counts, dim=0)), 1.0)
    assert short.text == long.text
    assert short.confidence == pytest.approx(long.confidence, rel=1e-4)


def test_the_language_is_the_one_that_whisper_detects() -> None:
    model, features = toy(51_865), torch.randn(1_500, 32)
    tokenizer = writer_tokenizer(model)
    _, chances = detect_language(model, features[None], tokenizer)
    found = WhisperWriter(model, None).tokenizer_of(Window(features)).language
    assert found == max(chances[0], key=lambda code: chances[0][code])
    few = torch.randn(40, 32)  # fewer frames than Whisper's own function takes
    assert WhisperWriter(model, None)(Window(few), 1.0).text


@pytest.mark.parametrize(
    ("ids", "length"),
    [
        ([1, 2, 3], 0),
        ([5, *[1, 2, 3] * 8], 21),
        ([5, *[1, 2, 3] * 7], 0),  # "really, really, ..." is said now and then
        ([7] * 23, 0),
        ([7] * 24, 23),
        ([*[1, 2, 3] * 8, 4], 0),
        ([*range(6)] * 3, 0),  # six words, said three times
        ([*range(12)] * 4, 36),
    ],
)
def test_a_loop_is_what_is_written_again_and_again(ids: list[int], length: int) -> None:
    assert loop_length(ids) == length


@pytest.mark.parametrize(
    "said",
    [
        "No no no no.",
        "No, no, no, no, no, no!",
        "It was very very very very good.",
        "It was very, very, very, very, very, very good.",
        "Really, really, really, really, really, really big.",
        "Thank you, thank you, thank you, thank you, thank you, thank you.",
        "I know, I know, I know, I know.",
        "I don't know, I don't know, I don't know, I don't know.",
        "Blah blah blah blah blah blah.",
        "Ha ha ha ha ha ha ha ha!",
    ],
)
def test_what_people_repeat_is_no_loop(said: str) -> None:
    ids = writer_tokenizer(toy()).encode(f" {said}")
    assert not any(loop_length(ids[: end + 1]) for end in range(len(ids)))


class Stuck:
    """A decoder step that always wants the same token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, ids: list[int], *_: object) -> Tensor:
        logits = torch.zeros(len(ids), 51_864)
        logits[:, self.token] = 50.0
        return logits


def test_a_writer_that_repeats_itself_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy()
    writer, tokenizer = WhisperWriter(model, None), writer_tokenizer(model)
    (again,) = tokenizer.encode(" again")
    monkeypatch.setattr(writer, "_step", Stuck(again))
    written = writer(Window(torch.randn(40, 32)), 20.0)
    assert (written.text, written.ran_away) == ("again", True)


def test_nobody_says_more_than_so_many_tokens_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = WhisperWriter(toy(), None)
    steps = iter(range(10_000))

    def another(ids: list[int], *_: object) -> Tensor:
        logits = torch.zeros(len(ids), 51_864)
        logits[:, 1_000 + 7 * next(steps)] = 50.0
        return logits

    monkeypatch.setattr(writer, "_step", another)
    assert writer(Window(torch.randn(40, 32)), 1.0).ran_away
    assert next(steps) == 1 + 10 + 8


@pytest.mark.parametrize(
    ("silence", "mean", "nothing"),
    [
        (0.85, -0.7, True),  # a fan: "Thank you."
        (0.46, -1.52, True),  # a breath: "You"
        (0.92, -0.45, False),
        (0.31, -0.8, False),  # as unsure as of people in noise
        (0.2, -1.5, False),  # a child who learns English
        (0.62, -0.54, False),  # "No, no, no, no, no." by a synthesizer
    ],
)
def test_the_less_sure_of_words_the_sooner_nothing_was_said(silence: float, mean: float, nothing: bool) -> None:
    assert says_nothing(silence, mean) is nothing
