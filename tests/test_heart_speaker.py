"""The speech decoder of the voice `heart`: the contract, when phonemes are spoken, streams, batches, training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from importable import importable
from torch import Tensor

from anytalk.errors import ConfigError
from anytalk.plugins.byte_tokenizer import ByteTokenizer
from anytalk.plugins.contracts import END_OF_TEXT, NO_TEXT
from anytalk.plugins.testing import check_output_adapter

with importable("anytalk-heart", "heart"):
    import anytalk_heart.speaker as speaker_module
    from anytalk_heart.pronounce import EDGE, SPACE
    from anytalk_heart.reading import TextReader
    from anytalk_heart.script import CONTEXT, LATENTS_PER_STEP, NEVER, WINDOW, Script, first_latent
    from anytalk_heart.speaker import BREAKS, END, PADDING, HeartSpeaker, SpeakerMemory
    from speech import Utterance
    from train_speaker import (
        LAYOUT,
        MOST_WAITS,
        TEXT_LEAD,
        Said,
        SpeakerParts,
        SpeakerTraining,
        batch_of,
        by_letters,
        drawn_waits,
        said,
    )

SMALL = HeartSpeaker.Options(width=64, num_layers=2, hidden_width=32, unit_width=8)
LEAD = 2
TOKENIZER = ByteTokenizer(chat=False)


def spoken(text: str) -> list[int]:
    return [SPACE if letter == " " else 20 + ord(letter) % 100 for letter in text]


class Letters:
    """A pronouncer whose units are letters; a word leaves when it is over."""

    def fresh(self) -> Letters:
        return Letters()

    def units(self, text_piece: str, is_word_end: bool) -> list[int]:
        return spoken(text_piece)

    def flush(self) -> list[int]:
        return []


@pytest.fixture(autouse=True)
def _letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_module, "_pronouncer", lambda name, held_words: Letters())


def small() -> HeartSpeaker:
    torch.manual_seed(1)
    part = HeartSpeaker(SMALL, TOKENIZER, LEAD).eval()
    # Fresh durations are all alike; these differ from unit to unit.
    torch.nn.init.normal_(part.encoder.duration.weight, std=1.0)
    return part


def spelled(text: str, steps: int) -> list[int]:
    ids = [NO_TEXT, *TOKENIZER.encode(text), END_OF_TEXT]
    return (ids + [NO_TEXT] * steps)[:steps]


def test_options_of_the_first_version_are_read() -> None:
    assert HeartSpeaker.Options.model_validate({"width": 64, "text_lead": 9}).width == 64


def test_contract() -> None:
    check_output_adapter(small())


def test_text_is_read_by_words_whatever_the_tokens() -> None:
    reader = TextReader(TOKENIZER, Letters())  # type: ignore[arg-type]
    found = [reader.read(token) for token in TOKENIZER.encode("ab é c")]
    said = Letters().units
    # "ab" is over with the space, "é" (two bytes) with the next one; "c" waits for the end.
    assert [units for units in found if units] == [said("ab", True), said(" é", True)]
    assert reader.read(NO_TEXT) == []
    assert reader.read(END_OF_TEXT) == said(" c", False)


def test_a_copied_reader_goes_on_by_itself() -> None:
    reader = TextReader(TOKENIZER, Letters())  # type: ignore[arg-type]
    reader.read(ord("a"))
    other = reader.copy()
    other.read(ord("b"))
    assert reader.read(END_OF_TEXT) == Letters().units("a", False)
    assert other.read(END_OF_TEXT) == Letters().units("ab", False)


def test_words_are_released_when_their_neighbours_are_known() -> None:
    script = Script(TextReader(TOKENIZER, Letters()), BREAKS, END, PADDING, text_lead=2)  # type: ignore[arg-type]
    script.read(spelled("ab cdefghi ", 12))  # the second word is over with the space in the last step
    first, second = script.unspoken()
    letters = spoken("ab cdefghi")
    assert first == [PADDING] * CONTEXT + letters[: CONTEXT + 1]
    assert second == [PADDING] * (CONTEXT - 1) + letters[: CONTEXT + 2]
    script.speak([3, 5])
    # Released in step 11: frames 11 - 2 - 1 = 8 to 10 are shown then, 40 to 43 for the first time.
    assert script.starts == [40, 43]
    assert first_latent(11, 2) + WINDOW - LATENTS_PER_STEP == 40
    script.read(TOKENIZER.encode("jk lm "))  # eight units after " cdefghi" aren't there yet
    assert script.unspoken() == []
    script.read([END_OF_TEXT])
    rest = script.unspoken()
    assert [window[CONTEXT] for window in rest] == [*letters[2:], *spoken(" jk lm"), END]
    script.speak([2] * len(rest))
    # Released in step 18: frame 68 / 4 is shown for the first time; speech waits until then.
    assert script.starts == [40, 43, *range(68, 68 + 2 * len(rest), 2)]
    assert script.durations == [3, 5, *[2] * (len(rest) - 1), NEVER]


def test_going_back_reads_the_text_anew() -> None:
    script = Script(TextReader(TOKENIZER, Letters()), BREAKS, END, PADDING, text_lead=2)  # type: ignore[arg-type]
    script.read(spelled("abcdefghi jk lm", 20))
    before = [list(window) for window in script.unspoken()]
    script.speak([1] * len(before))
    script.crop(12)
    script.read(spelled("abcdefghi jk lm", 20)[12:])
    assert script.unspoken() == before
    assert script.tokens == spelled("abcdefghi jk lm", 20)


def rows(texts: list[str], steps: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(len(texts), steps, SMALL.width), torch.tensor([spelled(text, steps) for text in texts])


@torch.no_grad()
def test_steps_one_by_one_are_those_at_once() -> None:
    part = small()
    audio, text = rows(["to be or not to be is the question", "yes"], 50)
    whole = part(audio, text)
    cache = part.new_cache(2, 50)
    steps = [part(audio[:, step : step + 1], text[:, step : step + 1], None, cache) for step in range(50)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-5)
    assert cache.length == 50


@torch.no_grad()
def test_rows_join_leave_and_are_taken_as_if_alone() -> None:
    part = small()
    audio, text = rows(["hello there my friend", "a b c d e f g h i j", "so be it"], 40)
    alone = [part(audio[row : row + 1], text[row : row + 1]) for row in range(3)]
    caches = [SpeakerMemory() for _ in range(3)]
    for row, begun in enumerate((5, 9, 2)):
        part(audio[row : row + 1, :begun], text[row : row + 1, :begun], None, caches[row])
    together = caches[0]
    together.join(caches[1])
    together.join(caches[2])
    at = torch.tensor([5, 9, 2])
    for _ in range(10):
        found = part(audio[range(3), at][:, None], text[range(3), at][:, None], None, together)
        for row in range(3):
            torch.testing.assert_close(found[row, 0], alone[row][0, at[row]], atol=1e-5, rtol=1e-5)
        at = at + 1
    kept = together.take(1)
    together.keep_rows([2, 0])
    for cache, row in ((kept, 1), (together, 2)):
        where = [row] if cache is kept else [2, 0]
        found = part(audio[where, at[where]][:, None], text[where, at[where]][:, None], None, cache)
        torch.testing.assert_close(found[0, 0], alone[row][0, at[row]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_taught_is_what_is_spoken() -> None:
    """With the durations that it would choose itself, a whole text gives what streaming gives."""
    part = small()
    text = "abcdefghi"
    units = spoken(text)
    padded = torch.tensor([[PADDING] * CONTEXT + [*units, END] + [PADDING] * CONTEXT])
    _, guessed = part.encoder(padded)
    durations = guessed.argmax(-1)
    durations[0, -1] = 0
    assert len(set(durations[0].tolist())) > 2
    starts = (durations.cumsum(1) - durations).masked_fill(padded[:, CONTEXT:-CONTEXT] == PADDING, 1 << 40)
    lasting = durations.masked_fill(padded[:, CONTEXT:-CONTEXT] == END, NEVER)
    wanted = part.view(part.encoder(padded)[0], starts, lasting, _latents(20, 30))
    # A lead so long that nothing has to wait.
    found = part.view(*part._units_of(_memory(part, text, 20), [first_latent(0, 20)], padded.device), _latents(20, 30))
    torch.testing.assert_close(found, wanted)


def _memory(part: HeartSpeaker, text: str, lead: int) -> SpeakerMemory:
    memory = SpeakerMemory()
    reader = TextReader(TOKENIZER, Letters())  # type: ignore[arg-type]
    memory.begin([Script(reader, BREAKS, END, PADDING, lead)], SMALL.unit_width)
    part._read(memory, [spelled(text, 12)])
    return memory


def _latents(lead: int, steps: int) -> Tensor:
    return first_latent(0, lead) + torch.arange(WINDOW + LATENTS_PER_STEP * (steps - 1))[None]


def test_a_stage_is_told_that_it_learns_elsewhere() -> None:
    part = small().train()
    with pytest.raises(ConfigError, match="train_speaker"):
        part(torch.zeros(1, 2, SMALL.width), torch.full((1, 2), NO_TEXT))
    part.requires_grad_(False)
    assert part(torch.zeros(1, 2, SMALL.width), torch.full((1, 2), NO_TEXT)).shape == (1, 2, SMALL.width)


def some_rows(count: int) -> list[Said]:
    dice = np.random.default_rng(0)
    found = []
    for _ in range(count):
        units = dice.integers(1, 30, dice.integers(4, 9)).astype(np.int16)
        durations = dice.integers(1, 6, len(units)).astype(np.int16)
        frames = -(-int(durations.sum()) // LATENTS_PER_STEP)
        # What is said depends on the phoneme in the middle of each frame.
        spoken = np.repeat(units, durations)
        spoken = np.pad(spoken, (0, 4 * frames - len(spoken)), mode="edge")[1::4]
        codes = np.stack([spoken * 3 + stream for stream in range(7)]).astype(np.int16)
        latents = np.repeat(np.repeat(spoken[None] / 30, 4, 1), 134, 0).astype(np.float16)
        found.append(Said(units, durations, codes, latents, np.zeros_like(durations)))
    return found


def test_batches_are_padded_by_what_is_never_spoken() -> None:
    two = some_rows(2)
    parts = SpeakerParts(SMALL)
    batch = batch_of(two, parts.pattern)
    for row, one in enumerate(two):
        count, frames = len(one.units), one.codes.shape[1]
        assert batch.units[row, CONTEXT : CONTEXT + count].tolist() == one.units.tolist()
        assert batch.units[row, CONTEXT + count] == END
        assert int(batch.durations[row].sum()) == one.durations.sum()
        lag = TEXT_LEAD + 1 + 6  # of stream 6; its end stands after its last code
        assert batch.tokens[row, 6, lag : lag + frames].tolist() == one.codes[6].tolist()
        assert batch.tokens[row, 6, lag + frames] == LAYOUT.eoa
        assert int(batch.is_said[row, 6].sum()) == frames + 1


def test_waits_stand_before_words_and_end_with_a_frame() -> None:
    units = np.array([1, SPACE, 2, 3, SPACE, 4], np.int16)
    durations = np.array([4, 2, 3, 4, 2, 3], np.int16)
    found = [drawn_waits(units, durations, np.random.default_rng(seed)) for seed in range(60)]
    assert {int(unit) for waits in found for unit in waits.nonzero()[0]} == {0, 1, 4}
    assert 1 < max(np.count_nonzero(waits) for waits in found) <= MOST_WAITS
    for waits in found:
        starts = (durations + waits).cumsum() - durations
        assert not (starts[waits > 0] % LATENTS_PER_STEP).any()


class Plain:
    """A codec whose codes are every fourth latent's first number."""

    def __init__(self) -> None:
        self.net = self

    def encode_latents(self, latents: Tensor) -> Tensor:
        return latents[:, :1, ::LATENTS_PER_STEP].expand(-1, 7, -1)

    def standardised(self, latents: Tensor) -> Tensor:
        return latents


def test_what_waits_is_silent_and_then_goes_on() -> None:
    units, durations = [1, SPACE, 2], [20, 3, 4]
    latents = np.zeros((27, 132), np.float16)
    latents[:, 0] = np.arange(27)
    one = Utterance({"units": units, "durations": durations}, latents, np.zeros(0, np.int16))
    codec: Any = Plain()
    plain = said(codec, one, None)
    # 16 of the 20 latents of silence before the first word are left out, and the last one fills its frame.
    assert plain.durations.tolist() == [4, 3, 4]
    assert not plain.waits.any()
    assert plain.latents[0].tolist() == [*range(16, 27), 26]
    assert plain.codes[0].tolist() == [16, 20, 24]
    waiting = next(s for s in (said(codec, one, np.random.default_rng(n)) for n in range(40)) if s.waits[1] > 4)
    before, wait = int(waiting.waits[0]), int(waiting.waits[1])
    heard = waiting.latents[0].tolist()
    assert heard[: before + 4] == [16] * before + [16, 17, 18, 19]
    assert heard[before + 4 : before + 4 + wait] == [16] * wait
    assert heard[before + 4 + wait :][:7] == list(range(20, 27))


def test_learning() -> None:
    parts = SpeakerParts(SMALL)
    data = [(row, row) for row in some_rows(24)]
    training = SpeakerTraining(parts, data, data[:4], bf16=False, aside_steps=2)
    optimizer = torch.optim.AdamW(parts.parameters(), 1e-2)
    told: list[dict[str, Any]] = []
    for step in range(40):
        torch.manual_seed(step)
        loss, parts_of_loss = training(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append({"loss": loss.item(), **parts_of_loss})
    assert told[-1]["loss"] < 0.5 * told[0]["loss"]
    assert told[-1]["duration"] < told[0]["duration"]
    assert "held_out_code0" in told[0]


def test_letters_take_the_place_of_phonemes_and_keep_the_waits() -> None:
    units, durations = [EDGE, 61, 62, 63, SPACE, 64, 65, EDGE], [4, 2, 3, 1, 0, 4, 5, 6]
    waits = [8, 0, 0, 0, 12, 0, 0, 0]
    first, lasting, late = (np.array(row, np.int16) for row in (units, durations, waits))
    one = Said(first, lasting, np.zeros((7, 12), np.int16), np.zeros((134, 48), np.float16), late)
    row = {"units": [EDGE, 20, 21, SPACE, 22, 23, 24, EDGE], "durations": [15, 3, 3, 0, 3, 3, 3, 6]}
    spelled = by_letters(row, one)
    assert spelled.units.tolist() == row["units"]
    assert spelled.durations.tolist() == [4, 3, 3, 0, 3, 3, 3, 6]  # the silence before the text stays shortened
    assert spelled.waits.tolist() == [8, 0, 0, 12, 0, 0, 0, 0]
    assert spelled.codes is one.codes
