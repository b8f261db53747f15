"""Where codes stand: the paper's staircase typed by hand, and properties over many shapes."""

from __future__ import annotations

import numpy as np
import pytest

from anytalk.errors import ConfigError, UnknownNameError
from anytalk.grid.delay import PATTERNS, DelayPattern, TextLead
from anytalk.grid.tokens import StreamLayout


def layout_of(pattern: DelayPattern) -> StreamLayout:
    return StreamLayout(
        num_audio_streams=pattern.num_audio_streams,
        codebook_size=pattern.codebook_size,
        text_vocab_size=10,
        end_of_text_id=10,
    )


def grid_of(
    name: str, codes: list[list[int]], text_lead: TextLead = 0, num_text: int = 0, size: int = 100
) -> list[str]:
    """The audio rows as text, one string per row: codes as numbers, E for eoa, . for pad_a."""
    pattern = DelayPattern(name, len(codes), size, text_lead)
    grid, mask = pattern.apply(np.array(codes).reshape(len(codes), -1), layout_of(pattern), num_text)
    layout = layout_of(pattern)
    assert np.array_equal(mask, grid != layout.pad_a)
    assert grid.dtype == np.int64
    words = {layout.eoa: "E", layout.pad_a: "."}
    return [" ".join(words.get(int(token), str(token)) for token in row) for row in grid]


def test_the_papers_staircase() -> None:
    codes = [[10, 11], [20, 21], [30, 31], [40, 41], [50, 51], [60, 61], [70, 71]]
    assert grid_of("delay", codes) == [
        ". 10 11 E . . . . . .",
        ". . 20 21 E . . . . .",
        ". . . 30 31 E . . . .",
        ". . . . 40 41 E . . .",
        ". . . . . 50 51 E . .",
        ". . . . . . 60 61 E .",
        ". . . . . . . 70 71 E",
    ]


def test_parallel() -> None:
    assert grid_of("parallel", [[1, 2, 3], [4, 5, 6]]) == [". 1 2 3 E", ". 4 5 6 E"]


def test_flatten_gives_each_codec_stream_its_own_ids() -> None:
    assert grid_of("flatten", [[1, 2], [3, 4], [5, 6]], size=10) == [". 1 13 25 2 14 26 E"]


def test_text_lead_adds_columns() -> None:
    assert grid_of("delay", [[1, 2], [3, 4]], text_lead=2) == [". . . 1 2 E .", ". . . . 3 4 E"]


def test_text_first() -> None:
    assert grid_of("parallel", [[1], [2]], text_lead="all", num_text=3) == [". . . . 1 E", ". . . . 2 E"]
    assert grid_of("delay", [[1], [2]], text_lead="all", num_text=1) == [". . 1 E .", ". . . 2 E"]


def test_an_answer_without_frames() -> None:
    assert grid_of("delay", [[], []]) == [". E .", ". . E"]


def shapes(count: int = 60) -> list[tuple[DelayPattern, np.ndarray, int]]:
    """Patterns, codes and text lengths, seeded."""
    random = np.random.default_rng(3)
    found = []
    for _ in range(count):
        streams, size, frames = (int(random.integers(low, high)) for low, high in ((1, 9), (2, 40), (0, 12)))
        lead: TextLead = "all" if random.random() < 0.25 else int(random.integers(0, 5))
        pattern = DelayPattern(PATTERNS[int(random.integers(0, 3))], streams, size, lead)
        found.append((pattern, random.integers(0, size, (streams, frames)), int(random.integers(0, 6))))
    return found


@pytest.mark.parametrize(("pattern", "codes", "num_text"), shapes())
def test_undo_takes_back_apply(pattern: DelayPattern, codes: np.ndarray, num_text: int) -> None:
    frames = codes.shape[1]
    grid, mask = pattern.apply(codes, layout_of(pattern), num_text)
    assert grid.shape[1] == pattern.num_columns(frames, num_text)
    assert np.array_equal(pattern.undo(grid, frames, num_text), codes)
    # One eoa per stream, and the last column holds one.
    assert (grid == layout_of(pattern).eoa).sum() == pattern.num_audio_streams
    assert mask[-1, -1]
    # Without the last eoa's column exactly these frames can be read, without one more column they can't.
    assert pattern.frames_ready(grid.shape[1] - 1, num_text) == frames
    assert frames == 0 or pattern.frames_ready(grid.shape[1] - 2, num_text) == frames - 1
    first = frames // 2
    assert np.array_equal(pattern.undo(grid, frames, num_text, first_frame=first), codes[:, first:])


@pytest.mark.parametrize(("pattern", "codes", "num_text"), shapes())
def test_columns_of_legal_tokens_are_a_staircase(pattern: DelayPattern, codes: np.ndarray, num_text: int) -> None:
    """Speak `codes` under the rules of generation: each must be legal, and the end must fall where apply puts it."""
    layout = layout_of(pattern)
    expected, _ = pattern.apply(codes, layout, num_text)
    num_frames: int | None = None
    for column in range(expected.shape[1]):
        ended_now = num_frames
        for stream in range(pattern.num_audio_streams):
            # Text of num_text tokens and its end: complete from this column on.
            legal = pattern.legal(stream, column, ended_now, num_text=num_text, text_ended=column > num_text)
            token = int(expected[stream, column])
            if token == layout.pad_a:
                assert legal.may_pad
                assert legal.is_forced
            elif token != layout.eoa:
                assert legal.first <= token < legal.stop
            elif column > num_text:
                assert legal.may_end
            if stream == 0 and token == layout.eoa:
                ended_now = pattern.frames_at_end(column, num_text)
        num_frames = ended_now
    assert num_frames == codes.shape[1]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("text_lead", [0, 2, "all"])
@pytest.mark.parametrize("num_text", [0, 4])
def test_random_walks_end_on_the_staircase(name: str, text_lead: TextLead, num_text: int) -> None:
    """Choose among what is legal at random: whatever comes out reads back as codes, with the ends where they belong."""
    pattern = DelayPattern(name, 3, 5, text_lead)
    layout = layout_of(pattern)
    for seed in range(20):
        random = np.random.default_rng(seed)
        columns: list[list[int]] = []
        num_frames: int | None = None
        while num_frames is None or len(columns) < pattern.num_columns(num_frames, num_text):
            index, text_ended = len(columns), len(columns) > num_text
            column: list[int] = []
            for stream in range(pattern.num_audio_streams):
                legal = pattern.legal(stream, index, num_frames, num_text=num_text, text_ended=text_ended)
                choices = list(range(legal.first, legal.stop)) + ([layout.eoa] * 3 if legal.may_end else [])
                column.append(int(random.choice(choices)) if choices else layout.pad_a)
                assert legal.is_forced == (legal.may_pad or (legal.may_end and legal.first == legal.stop))
                if stream == 0 and num_frames is None and column[0] == layout.eoa:
                    num_frames = pattern.frames_at_end(index, num_text)
            columns.append(column)
        grid = np.array(columns).T
        codes = pattern.undo(grid, num_frames, num_text)
        assert codes.shape == (3, num_frames)
        assert ((codes >= 0) & (codes < 5)).all()
        assert np.array_equal(pattern.apply(codes, layout, num_text)[0], grid)


def test_audio_does_not_end_before_the_text() -> None:
    pattern = DelayPattern("delay", 2, 5)
    assert not pattern.legal(0, 4, None, text_ended=False).may_end
    assert pattern.legal(0, 4, None, text_ended=True).may_end
    # Only the first stream decides.
    assert not pattern.legal(1, 4, None, text_ended=True).may_end


def test_a_flat_frame_ends_whole() -> None:
    pattern = DelayPattern("flatten", 3, 5)
    assert [pattern.legal(0, column, None).may_end for column in range(1, 8)] == [1, 0, 0, 1, 0, 0, 1]
    assert [pattern.legal(0, column, None).first for column in range(1, 5)] == [0, 5, 10, 0]


def test_mistakes() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'delay'"):
        DelayPattern("dealy", 7, 100)
    with pytest.raises(ConfigError, match="text_lead is -1"):
        DelayPattern("delay", 7, 100, -1)
