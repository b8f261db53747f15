"""Draws the token grid, as text for a terminal or as a PNG for a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anytalk.errors import AnytalkError, ConfigError
from anytalk.grid.tokens import StreamLayout
from anytalk.plugins.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAD = "·"
_MAX_LABEL = 12
_WRITTEN = {"\n": "⏎", " ": "␣", "\t": "⇥"}

KINDS = ("pad", "special", "text", "code", "speech")
"""What a cell can be: empty, a special token, text, a codec code, or part of a spoken question."""

CODE_LABEL = str
"""The default label of a code, which is its number."""


@dataclass(frozen=True)
class GridPicture:
    """Holds a grid that is ready to be drawn."""

    rows: tuple[str, ...]  # names of the streams, S of them
    labels: tuple[tuple[str, ...], ...]  # (S,T) label of each cell
    kinds: tuple[tuple[str, ...], ...]  # (S,T) one of `KINDS`
    learnt: np.ndarray  # (S,T) bool, cells that are in the loss
    num_prompt: int  # columns of the prompt; T if there is no answer

    @property
    def num_columns(self) -> int:
        return len(self.labels[0])


def grid_cells(
    layout: StreamLayout,
    tokens: np.ndarray,
    decode: Callable[[int], str],
    code_label: Callable[[int], str] = CODE_LABEL,
) -> list[list[str]]:
    """Label all tokens: specials by name, pads as a dot, text decoded, codes by `code_label`.

    Args:
        tokens: (S,T) int64.
        decode: Returns the text of one text id; if that is empty, ``#id`` is shown.
        code_label: Returns the label of one code.

    Raises:
        ConfigError: the grid has another number of rows than the layout.
    """
    if tokens.ndim != 2 or tokens.shape[0] != layout.num_streams:
        raise ConfigError(
            f"a grid of shape {tokens.shape} was given; {layout.num_streams} rows are expected", "check K"
        )

    def label(row: int, token: int) -> str:
        if token == (layout.pad_t if row == layout.text_row else layout.pad_a):
            return PAD
        name = layout.name(row, token)
        if name is not None:
            return name
        return _readable(decode(token), token) if row == layout.text_row else code_label(token)

    return [[label(row, int(token)) for token in tokens[row]] for row in range(layout.num_streams)]


def _readable(text: str, token: int) -> str:
    shown = "".join(_WRITTEN.get(c, c) for c in text) if text.isprintable() or text in _WRITTEN else ""
    shown = shown or f"#{token}"
    return shown if len(shown) <= _MAX_LABEL else shown[: _MAX_LABEL - 1] + "…"


def picture(
    layout: StreamLayout,
    tokens: np.ndarray,
    decode: Callable[[int], str],
    *,
    learnt: np.ndarray | None = None,
    num_prompt: int | None = None,
    speech_spans: Sequence[tuple[int, int]] = (),
    code_label: Callable[[int], str] = CODE_LABEL,
) -> GridPicture:
    """Collect a grid's labels, kinds and everything else that is drawn.

    Args:
        tokens: (S,T) int64.
        decode: As in :func:`grid_cells`.
        learnt: (S,T) bool, the loss mask.
        num_prompt: How many columns come before the answer; default: all.
        speech_spans: (first column, number of columns) of each spoken turn.
        code_label: As in :func:`grid_cells`.
    """
    labels = grid_cells(layout, tokens, decode, code_label)
    kinds = [[_kind(layout, row, int(token)) for token in tokens[row]] for row in range(layout.num_streams)]
    # Speech columns hold pads as tokens, but the model reads speech there.
    for start, length in speech_spans:
        for row in range(layout.text_row):
            for place in range(length):
                labels[row][start + place] = "~"
                kinds[row][start + place] = "speech"
    mask = np.zeros(tokens.shape, dtype=bool) if learnt is None else learnt
    names = (*(f"audio {k}" for k in range(layout.num_audio_streams)), "text")
    columns = int(tokens.shape[1])
    prompt = columns if num_prompt is None else num_prompt
    return GridPicture(names, tuple(map(tuple, labels)), tuple(map(tuple, kinds)), mask, prompt)


def _kind(layout: StreamLayout, row: int, token: int) -> str:
    if token == (layout.pad_t if row == layout.text_row else layout.pad_a):
        return "pad"
    if layout.name(row, token) is not None:
        return "special"
    return "text" if row == layout.text_row else "code"


Segment = tuple[str, str]
"""A piece of a line and its kind, which is one of :data:`KINDS`, ``"frame"``, or ``"learnt-"`` and a kind."""


def text_segments(drawn: GridPicture, width: int) -> list[list[Segment]]:
    """Return lines of at most `width` characters, in pieces that can be coloured; a wide grid continues below.

    Cells in the loss are in ``[ ]``, and ``║`` separates prompt and answer.
    """
    margin = max(len(name) for name in drawn.rows) + 1
    lines: list[list[Segment]] = []
    for first, stop in _blocks(drawn, width - margin):
        if lines:
            lines.append([("", "frame")])
        lines.append([(_ruler(drawn, first, stop, margin), "frame")])
        for row, name in enumerate(drawn.rows):
            line: list[Segment] = [(name.ljust(margin), "frame")]
            for column in range(first, stop):
                if _has_border(drawn, column):
                    line.append(("║", "frame"))
                label, is_learnt = drawn.labels[row][column], bool(drawn.learnt[row, column])
                cell = f"[{label}]" if is_learnt else f" {label} "
                kind = drawn.kinds[row][column]
                line.append((cell.center(_column_width(drawn, column)), f"learnt-{kind}" if is_learnt else kind))
            lines.append(line)
    return lines


def _column_width(drawn: GridPicture, column: int) -> int:
    return max(len(row[column]) for row in drawn.labels) + 2


def _has_border(drawn: GridPicture, column: int) -> bool:
    return column == drawn.num_prompt and column > 0


def _blocks(drawn: GridPicture, room: int) -> Iterator[tuple[int, int]]:
    first, used = 0, 0
    for column in range(drawn.num_columns):
        need = _column_width(drawn, column) + _has_border(drawn, column)
        # A block holds at least one column, however narrow the terminal is.
        if used + need > room and column > first:
            yield first, column
            first, used = column, 0
        used += need
    if drawn.num_columns:
        yield first, drawn.num_columns


def _ruler(drawn: GridPicture, first: int, stop: int, margin: int) -> str:
    pieces = ["step".ljust(margin)]
    for column in range(first, stop):
        if _has_border(drawn, column):
            pieces.append("║")
        pieces.append(str(column).center(_column_width(drawn, column)))
    return "".join(pieces)


COLOURS = {
    "pad": "#f6f7f9",
    "special": "#ffd9a8",
    "text": "#cfe3ff",
    "code": "#d3efd6",
    "speech": "#e6d6f7",
}
_LEARNT_EDGE = "#c2410c"
_COLUMNS_PER_PANEL = 32


def draw_png(drawn: GridPicture, path: Path, title: str) -> None:
    """Write the picture as a PNG: one cell per token, cells in the loss framed, a line where the answer begins.

    Raises:
        AnytalkError: the file can't be written.
    """
    figure = _figure(drawn, title)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise AnytalkError(f"'{path}' can't be written: {error}", "choose another file") from None


def grid_image(drawn: GridPicture, title: str) -> np.ndarray:
    """Draw the same picture as :func:`draw_png` and return its pixels, (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_figure(drawn, title))
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _figure(drawn: GridPicture, title: str) -> Figure:
    require("a picture", "report", "matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = -(-drawn.num_columns // _COLUMNS_PER_PANEL)
    per_panel = -(-drawn.num_columns // panels)
    rows = len(drawn.rows)
    longest = max(len(label) for row in drawn.labels for label in row)
    cell_width = 0.34 + 0.045 * max(0, min(longest, _MAX_LABEL) - 2)
    # Figure, not pyplot: pyplot keeps every figure alive until it is closed.
    figure = Figure(figsize=(1.4 + cell_width * per_panel, 0.9 + panels * (0.30 * rows + 0.62)), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    for panel, axes in enumerate(figure.subplots(panels, 1, squeeze=False)[:, 0]):
        _draw_panel(axes, drawn, panel * per_panel, min((panel + 1) * per_panel, drawn.num_columns), per_panel)
    present = {kind for row in drawn.kinds for kind in row}
    legend = [Patch(facecolor=COLOURS[k], edgecolor="#999999", label=k) for k in KINDS if k in present]
    if drawn.learnt.any():
        legend.append(Patch(facecolor="white", edgecolor=_LEARNT_EDGE, linewidth=1.6, label="in the loss"))
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), fontsize=8, frameon=False)
    return figure


def _draw_panel(axes: object, drawn: GridPicture, first: int, stop: int, per_panel: int) -> None:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

    assert isinstance(axes, Axes)
    rows = len(drawn.rows)
    for row in range(rows):
        for column in range(first, stop):
            kind, label = drawn.kinds[row][column], drawn.labels[row][column]
            is_learnt = bool(drawn.learnt[row, column])
            inset = 0.06
            axes.add_patch(
                Rectangle(
                    (column + inset, row + inset),
                    1 - 2 * inset,
                    1 - 2 * inset,
                    facecolor=COLOURS[kind],
                    edgecolor=_LEARNT_EDGE if is_learnt else "#d5d8de",
                    linewidth=1.3 if is_learnt else 0.6,
                )
            )
            colour = "#b3b8c2" if kind == "pad" else "#1f2430"
            # matplotlib reads a dollar sign as the start of a formula.
            axes.text(
                column + 0.5, row + 0.5, label.replace("$", r"\$"), ha="center", va="center", fontsize=6.5, color=colour
            )
    if first <= drawn.num_prompt < stop and drawn.num_prompt > 0:
        axes.axvline(drawn.num_prompt, color="#1f2430", linewidth=1.8)
        axes.text(drawn.num_prompt + 0.1, rows + 0.12, "answer →", fontsize=7, va="top", color="#1f2430")
    axes.set_xlim(first, first + per_panel)
    # The first stream is drawn at the top.
    axes.set_ylim(rows, 0)
    axes.set_yticks([row + 0.5 for row in range(rows)], drawn.rows, fontsize=7.5)
    axes.set_xticks([column + 0.5 for column in range(first, stop)], [str(c) for c in range(first, stop)], fontsize=6)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
