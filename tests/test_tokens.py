"""Special ids, against the original's table."""

from __future__ import annotations

import pytest

from anytalk.grid.tokens import AUDIO_SPECIALS, TEXT_SPECIALS, StreamLayout

MINI_OMNI = StreamLayout(
    num_audio_streams=7,
    codebook_size=4096,
    text_vocab_size=151936,
    end_of_text_id=151936,
    text_special_slots=64,
    audio_special_slots=64,
)


def test_the_ids_are_the_originals() -> None:
    text = {name: getattr(MINI_OMNI, name) for name in TEXT_SPECIALS}
    audio = {name: getattr(MINI_OMNI, name) for name in AUDIO_SPECIALS}
    assert text == {"eot": 151936, "pad_t": 151937, "input_t": 151938, "answer_t": 151939, "asr": 151940}
    assert audio == {"eoa": 4096, "pad_a": 4097, "input_a": 4098, "answer_a": 4099}


def test_sizes() -> None:
    assert (MINI_OMNI.num_streams, MINI_OMNI.text_row, MINI_OMNI.stream_vocab_size) == (8, 7, 4160)


@pytest.mark.parametrize(
    ("row", "token", "name"),
    [
        (7, 0, None),
        (7, 151935, None),
        (7, 151936, "eot"),
        (7, 151940, "asr"),
        (7, 151941, "spare5"),
        (0, 4095, None),
        (0, 4096, "eoa"),
        (6, 4099, "answer_a"),
        (6, 4100, "spare4"),
        # The same number means another thing in another row.
        (7, 4096, None),
    ],
)
def test_names(row: int, token: int, name: str | None) -> None:
    assert MINI_OMNI.name(row, token) == name


def test_every_special_has_a_slot_by_default() -> None:
    layout = StreamLayout(num_audio_streams=1, codebook_size=8, text_vocab_size=10, end_of_text_id=3)
    assert layout.asr - layout.text_vocab_size < layout.text_special_slots
    assert layout.answer_a < layout.stream_vocab_size
