"""Draw the token grid of a task: ``anytalk layout``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from rich.text import Text

from anytalk.cli.render import err, note, out
from anytalk.errors import ConfigError
from anytalk.grid.delay import DelayPattern
from anytalk.grid.draw import GridPicture, draw_png, picture, text_segments
from anytalk.grid.prompts import PromptBuilder, Turn
from anytalk.grid.tasks import find_task
from anytalk.grid.tokens import StreamLayout

if TYPE_CHECKING:
    from anytalk.plugins.contracts import TextTokenizer

_CODES = 4096
_STYLES = {
    "pad": "dim",
    "special": "yellow",
    "text": "cyan",
    "code": "green",
    "speech": "magenta",
    "frame": "dim",
}


class WordTokenizer:
    """Split text into words and chat marks, so that a picture needs no model. Fulfils ``contracts.TextTokenizer``."""

    has_chat_template = True
    eos_id = 0

    def __init__(self) -> None:
        self.words = ["<end>"]

    def encode(self, text: str) -> list[int]:
        """Return one id per word or mark; a word keeps the space in front of it, and new words get new ids."""
        ids = []
        for word in re.findall(r"<[a-z]+>|\n| ?[^\s<]+|\s", text):
            if word not in self.words:
                self.words.append(word)
            ids.append(self.words.index(word))
        return ids

    encode_rendered = encode  # only for pictures, where text may name marks

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.words[i] for i in ids if i < len(self.words))

    def render_chat(self, messages: Sequence[dict[str, str]], **arguments: Any) -> str:
        """Return each message between the mark of its role and ``<end>``, then the mark of the assistant."""
        return "".join(f"<{m['role']}>{m['content']}<end>" for m in messages) + "<assistant>"


def command(
    task: str = typer.Argument(help="Task, e.g. A1A2; `anytalk plugins` lists them."),
    text: str = typer.Argument(help="The question, or the text to read aloud for T1A1."),
    answer: str | None = typer.Option(None, help="The answer; default: the question's words."),
    frames: int = typer.Option(6, min=0, help="Codec frames of the spoken answer."),
    speech_columns: int = typer.Option(4, min=1, help="Columns of the spoken question."),
    pattern: str = typer.Option("delay", help="delay, parallel or flatten."),
    text_lead: str = typer.Option("0", help="Extra pad tokens before the audio, or 'all'."),
    style: str = typer.Option("raw", help="Prompt style: raw or chat."),
    streams: int = typer.Option(7, min=1, help="Codes per codec frame."),
    talker: Path | None = typer.Option(None, help="Take tokenizer, pattern, style and streams from this talker."),
    png: Path | None = typer.Option(None, help="Also write a picture."),
    width: int | None = typer.Option(None, min=40, help="Characters per line; default: the terminal's."),
) -> None:
    """Draw the token grid of a task; learnt tokens are in [ ]."""
    chosen = find_task(task)
    said = (answer if answer is not None else text) if chosen.answer == "answer" else text
    if talker is None:
        tokenizer: TextTokenizer = WordTokenizer()
        # The layout must know the vocabulary size before a word is seen; no command line holds this many words.
        delay = DelayPattern(pattern, streams, _CODES, "all" if text_lead == "all" else _number(text_lead))
        layout = StreamLayout(
            num_audio_streams=delay.num_audio_streams,
            codebook_size=delay.codebook_size,
            text_vocab_size=1_000_000,
            end_of_text_id=1_000_000 if style == "raw" else tokenizer.eos_id,
        )
        system = None
    else:
        layout, tokenizer, delay, style, system = _from_talker(talker)
    builder = PromptBuilder(layout, tokenizer, style, system)
    # Each code is the number of its frame, which the picture shows.
    codes = np.tile(np.arange(frames), (delay.codec_streams, 1))
    grid = builder.training_grid(
        chosen,
        [Turn("user", text, speech_columns=speech_columns if chosen.speech_in else 0)],
        said,
        codes=codes if chosen.audio_out else None,
        pattern=delay,
    )
    drawn = picture(
        layout,
        grid.tokens,
        lambda token: tokenizer.decode([token]),
        learnt=grid.loss_mask,
        num_prompt=grid.num_prompt,
        speech_spans=grid.speech_spans,
        code_label=_code_label(delay),
    )
    show(drawn, width or out.width)
    note(f"task {chosen.name} ({chosen.summary}), prompt {style}, pattern {delay.name}: {drawn.num_columns} steps")
    note("· pad   ~ speech   [ ] in the loss   ║ the answer begins   numbers: the frame that a code belongs to")
    if png is not None:
        draw_png(drawn, png, f"{chosen.name}: {chosen.summary} (prompt {style}, pattern {delay.name})")
        note(f"picture in {png}")


def show(drawn: GridPicture, width: int) -> None:
    """Print the picture, in colours on a terminal."""
    for line in text_segments(drawn, width):
        shown = Text()
        for piece, kind in line:
            is_learnt = kind.startswith("learnt-")
            colour = _STYLES[kind.removeprefix("learnt-")]
            shown.append(piece, f"bold {colour}" if is_learnt else colour)
        shown.rstrip()
        out.print(shown, soft_wrap=True)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--text-lead is '{text}'; a number or 'all' is expected", "use --text-lead 0") from None


def _code_label(delay: DelayPattern) -> Callable[[int], str]:
    """Return the label of a code: its frame, or ``frame.stream`` if one stream holds the codes of all."""
    if delay.steps_per_frame == 1:
        return str
    return lambda code: f"{code % delay.codec_codebook_size}.{code // delay.codec_codebook_size}"


def _from_talker(folder: Path) -> tuple[StreamLayout, TextTokenizer, DelayPattern, str, str | None]:
    from anytalk.model.config import read_config

    config = read_config(folder)
    with err.status("loading torch and the tokenizer ..."):
        from anytalk.model.talker import load_talker

        talker = load_talker(folder, with_encoder=False)
    grid = config.grid
    return talker.model.layout, talker.model.backbone.tokenizer, grid.delay_pattern(), grid.prompt, grid.system
