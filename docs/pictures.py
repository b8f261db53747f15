"""Draws the pictures of the pages from the code itself: each is a function of a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.model.talk_model import PART_NAMES
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import Registry
from anytalk.train.config import Recipe

INK = "#22313f"
TEXT, AUDIO, SPEECH, PAD = "#ffd59e", "#a8dadc", "#d7c6f3", "#f2f2f2"
GRID_COMMAND = ("layout", "A1A2", "What is the capital?", "--answer", "Paris of course", "--frames", "5")
"""What draws the grid; docs/concepts.md shows it."""


def draw_line(path: Path) -> None:
    """The straight line: what flows from the question's sound to the answer's."""
    figure, axes = plt.subplots(figsize=(11, 4.4))
    axes.set(xlim=(-1, 110), ylim=(0, 44))
    axes.axis("off")
    top, bottom, merged = 32, 9, 20.5
    _box(axes, 7, top, "question\nwave (N)", "white")
    _box(axes, 24, top, "SpeechEncoder\n(B,F,E)", SPEECH, new=False)
    _box(axes, 43, top, "InputAdapter\n(B,F',D)", SPEECH)
    _box(axes, 24, bottom, "token grid\n(B,S,T)", TEXT)
    _box(axes, 43, merged, "embed + merge\n(B,T,D)", TEXT)
    _box(axes, 62, merged, "Backbone\n(any LM)", TEXT, new=False)
    _box(axes, 82, top, "text head\n(B,T,V)", TEXT, new=False)
    _box(axes, 102, top, "text", "white")
    _box(axes, 82, merged, "OutputAdapter\n(B,T,D)", AUDIO)
    _box(axes, 82, bottom, "Heads\n(B,K,T,C+...)", AUDIO)
    _box(axes, 102, bottom, "Codec\nPCM", AUDIO, new=False)
    for start, end in (
        ((14, top), (17, top)),
        ((31, top), (36.5, top)),
        ((43, top - 4), (43, merged + 4)),
        ((31, bottom + 2), (38, merged - 4)),
        ((50, merged), (55, merged)),
        ((67, merged + 4), (75, top - 1)),
        ((69, merged), (75, merged)),
        ((89, top), (95, top)),
        ((82, merged - 4), (82, bottom + 4)),
        ((89, bottom), (95, bottom)),
    ):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color=INK, lw=1.4))
    red = "#c0392b"
    arc = FancyArrowPatch((82, bottom - 4), (24, bottom - 4), connectionstyle="arc3,rad=-0.06", arrowstyle="-|>")
    arc.set(mutation_scale=14, color=red, linewidth=1.6, linestyle="--")
    axes.add_patch(arc)
    axes.text(55, 1.0, "the sampled column (S tokens) is the next input: the only way back", ha="center", color=red)
    edges = "grey edge: pretrained, frozen after attach      dark edge: new, trained by stages"
    axes.text(1, 41.5, edges, color=INK, fontsize=9)
    _save(figure, path)


def draw_grid(path: Path) -> None:
    """A training grid with the staircase of the delay pattern, by the command that the page names."""
    done = CliRunner().invoke(
        build_app(build_plugins(block=(), third_party=False)), [*GRID_COMMAND, "--png", str(path)]
    )
    if done.exit_code:
        raise RuntimeError(f"anytalk {' '.join(GRID_COMMAND)} failed: {done.output}")


def draw_stages(path: Path) -> None:
    """Which parts move in which stage of the paper's recipe."""
    registry = Registry(build_plugins(block=(), third_party=False))
    recipe = Recipe.model_validate(registry.load("recipe", "paper"))
    parts = [name for name in PART_NAMES if name != "speaker"]
    figure, axes = plt.subplots(figsize=(9, 3.2))
    for line, stage in enumerate(recipe.stages):
        y = len(recipe.stages) - 1 - line
        axes.text(-0.1, y + 0.45, stage.name, ha="right", va="center", color=INK, weight="bold", fontsize=10)
        for column, part in enumerate(parts):
            moves = part in stage.train
            colour = AUDIO if moves else PAD
            axes.add_patch(Rectangle((column, y), 0.95, 0.9, facecolor=colour, edgecolor="white"))
            label, ink = ("trains", INK) if moves else ("frozen", "#8a8a8a")
            axes.text(column + 0.47, y + 0.45, label, ha="center", va="center", fontsize=8, color=ink)
        axes.text(len(parts) + 0.1, y + 0.45, " ".join(stage.tasks), va="center", fontsize=8, color=INK)
    for column, part in enumerate(parts):
        axes.text(
            column + 0.47, len(recipe.stages) + 0.1, part.replace("_", "\n"), ha="center", va="bottom", fontsize=8
        )
    axes.text(len(parts) + 0.1, len(recipe.stages) + 0.1, "tasks", va="bottom", fontsize=8)
    axes.set(xlim=(-1.6, len(parts) + 2.6), ylim=(0, len(recipe.stages) + 0.8))
    axes.axis("off")
    _save(figure, path)


def draw_batch(path: Path) -> None:
    """Batch-parallel decoding: two rows, text from the second, sound from the first."""
    figure, axes = plt.subplots(figsize=(9, 2.9))
    axes.set(xlim=(0, 90), ylim=(0, 29))
    axes.axis("off")
    rows = (
        (21, "row 0 speaks", "same prompt, ends in answer_a"),
        (7, "row 1 only writes", "same prompt, ends in pad_a"),
    )
    for y, title, prompt in rows:
        _box(axes, 15, y, f"{title}\n{prompt}", TEXT, width=28)
        _box(axes, 42, y, "the same model,\none batch of two", TEXT, width=18, new=False)
        axes.add_patch(FancyArrowPatch((29, y), (33, y), arrowstyle="-|>", mutation_scale=14, color=INK))
    _box(axes, 74, 21, "sound: from row 0", AUDIO, width=22)
    _box(axes, 74, 7, "text: from row 1,\nfed to both rows", TEXT, width=22)
    for start, end, colour in (((51, 21), (63, 21), INK), ((51, 7), (63, 7), INK), ((63, 9), (51, 18), "#c0392b")):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color=colour))
    _save(figure, path)


def _box(axes: Any, x: float, y: float, label: str, colour: str, *, width: float = 14, new: bool = True) -> None:
    edge, height = (INK if new else "#a0a0a0"), 7.5
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(
        FancyBboxPatch(
            corner, width, height, boxstyle="round,pad=0,rounding_size=1", facecolor=colour, edgecolor=edge, lw=1.6
        )
    )
    axes.text(x, y, label, ha="center", va="center", fontsize=8.5, color=INK)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(figure)


PICTURES: dict[str, Callable[[Path], None]] = {
    "line": draw_line,
    "grid": draw_grid,
    "stages": draw_stages,
    "batch": draw_batch,
}
"""File stem under ``docs/images`` -> what draws it."""
