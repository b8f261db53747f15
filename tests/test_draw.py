"""The token grid as text and as a picture."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.cli.layout import WordTokenizer
from anytalk.errors import AnytalkError, ConfigError
from anytalk.grid.delay import DelayPattern
from anytalk.grid.draw import GridPicture, draw_png, grid_cells, picture, text_segments
from anytalk.grid.prompts import PromptBuilder, TrainingGrid, Turn
from anytalk.grid.tasks import A1A2, T1A1, T1A2, Task
from anytalk.grid.tokens import StreamLayout

LAYOUT = StreamLayout(num_audio_streams=2, codebook_size=16, text_vocab_size=1000, end_of_text_id=1000)
PATTERN = DelayPattern("delay", 2, 16)


def make(task: Task, question: str = "What is it", answer: str = "A cat") -> tuple[TrainingGrid, WordTokenizer]:
    tokenizer = WordTokenizer()
    turns = [Turn("user", question, speech_columns=3 if task.speech_in else 0)]
    codes = np.array([[3, 4], [5, 6]])
    return PromptBuilder(LAYOUT, tokenizer, "raw").training_grid(task, turns, answer, codes, PATTERN), tokenizer


def drawn(task: Task, **texts: str) -> GridPicture:
    grid, tokenizer = make(task, **texts)
    return picture(
        LAYOUT,
        grid.tokens,
        lambda token: tokenizer.decode([token]),
        learnt=grid.loss_mask,
        num_prompt=grid.num_prompt,
        speech_spans=grid.speech_spans,
    )


def draw_text(drawn: GridPicture, width: int) -> str:
    return "\n".join("".join(piece for piece, _ in line).rstrip() for line in text_segments(drawn, width)) + "\n"


def test_cells_name_specials_words_codes_and_pads() -> None:
    grid, tokenizer = make(T1A2)
    cells = grid_cells(LAYOUT, grid.tokens, lambda token: tokenizer.decode([token]))
    assert cells[2] == ["input_t", "What", "␣is", "␣it", "eot", "answer_t", "A", "␣cat", "eot", "·", "·"]
    assert cells[0] == ["·"] * 5 + ["answer_a", "·", "3", "4", "eoa", "·"]
    assert cells[1] == ["·"] * 5 + ["answer_a", "·", "·", "5", "6", "eoa"]


def test_a_grid_of_other_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 rows are expected"):
        grid_cells(LAYOUT, np.zeros((4, 2), dtype=np.int64), str)


def test_a_token_without_readable_text_is_its_number() -> None:
    tokens = np.full((3, 2), LAYOUT.pad_a)
    tokens[2] = [7, 8]
    cells = grid_cells(LAYOUT, tokens, lambda token: {7: "", 8: "a very long piece of text"}[token])
    assert cells[2] == ["#7", "a␣very␣long…"]


def test_text_marks_speech_border_and_what_is_learnt() -> None:
    shown = draw_text(drawn(A1A2), width=200)
    lines = {line.split("  ")[0].strip(): line for line in shown.splitlines()}
    assert lines["audio 0"].count("~") == 3
    assert "[3]" in lines["audio 0"]
    assert "[eoa]" in lines["audio 0"]
    prompt, _, answer = lines["text"].partition("║")
    assert "[" not in prompt
    assert "[A]" in answer


def test_given_text_is_not_marked_as_learnt() -> None:
    text_line = draw_text(drawn(T1A1, question="A cat"), width=200).splitlines()[-1]
    assert "[" not in text_line
    assert "␣cat" in text_line


@pytest.mark.parametrize("width", [40, 57, 120])
def test_no_line_is_wider_than_asked_and_nothing_is_lost(width: int) -> None:
    shown = draw_text(drawn(A1A2), width)
    assert max(len(line) for line in shown.splitlines()) <= width
    steps = [
        int(s) for line in shown.splitlines() if line.startswith("step") for s in line[4:].replace("║", " ").split()
    ]
    assert steps == list(range(drawn(A1A2).num_columns))


def test_png_is_written_and_shows_more_for_a_longer_grid(tmp_path: Path) -> None:
    from matplotlib.image import imread

    draw_png(drawn(A1A2), tmp_path / "short.png", "short")
    draw_png(drawn(T1A2, question=" ".join(f"w{i}" for i in range(40))), tmp_path / "new" / "long.png", "long")
    short, long = imread(tmp_path / "short.png"), imread(tmp_path / "new" / "long.png")
    assert long.shape[0] > 1.5 * short.shape[0]
    assert short[..., :3].std() > 0.02


def test_a_png_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AnytalkError, match="can't be written"):
        draw_png(drawn(T1A2), tmp_path / "file" / "x.png", "t")


def test_layout_command_draws_without_a_talker(tmp_path: Path) -> None:
    command = ["layout", "t1a2", "Hello you", "--pattern", "flatten", "--streams", "3", "--frames", "2"]
    result = CliRunner().invoke(build_app(), [*command, "--width", "120", "--png", str(tmp_path / "x.png")])
    assert result.exit_code == 0, result.output
    assert "[0.2][1.0]" in result.stdout.replace(" ", "")
    assert (tmp_path / "x.png").stat().st_size > 5_000


def test_layout_command_refuses_a_wrong_lead() -> None:
    result = CliRunner().invoke(build_app(), ["layout", "T1A2", "Hi", "--text-lead", "some"])
    assert result.exit_code == 1
    assert "'some'; a number or 'all' is expected" in result.stderr
