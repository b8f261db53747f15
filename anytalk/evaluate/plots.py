"""Draw the plots of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anytalk.evaluate.metrics import METRICS
from anytalk.evaluate.results import Result
from anytalk.evaluate.stats import Figure
from anytalk.files import written_whole

_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#3b6ea8", "#d9822b", "#4f9d69", "#b8483f", "#8a8f98"
_SEGMENT_COLOURS = {"encode": _BLUE, "prefill": _GREEN, "delay": _ORANGE, "codec": _RED}
_SHARES = ("share", "rate")
_DPI = 120


def draw_plot(result: Result, out: Path) -> str | None:
    """Write the plot of a measure.

    Returns:
        Its file name in `out`; None for a measure without a plot.
    """
    if result.kind not in _PLOTS or not result.items or not result.figures:
        return None
    draw, size = _PLOTS[result.kind]
    canvas, axes = _figure(*size)
    if not draw(axes, result):
        return None
    _save(canvas, out / f"{result.label}.png")
    return f"{result.label}.png"


def draw_summary(results: Sequence[Result], out: Path) -> str | None:
    """Write one plot of all shares and rates, and return its file name; None if there are none."""
    return "summary.png" if _draw_shares(results, out / "summary.png") else None


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    axes = canvas.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return canvas, axes


def _save(canvas: Any, path: Path) -> None:
    with written_whole(path) as partial:
        # Without the version that matplotlib writes, the same figures give the same file.
        canvas.savefig(partial, dpi=_DPI, metadata={"Software": None})


def _draw_shares(results: Sequence[Result], path: Path) -> bool:
    """Plot all shares and rates with their intervals, measure by measure; return whether there are any."""
    rows: list[tuple[str, Figure, str]] = []
    for result in results:
        colour = (_BLUE, _ORANGE, _GREEN, _RED, _GREY)[len({name.partition(".")[0] for name, _, _ in rows}) % 5]
        for name, figure in result.figures.items():
            if METRICS[result.kind][name].unit in _SHARES:
                rows.append((f"{result.label}.{name}", figure, colour))
    if not rows:
        return False
    canvas, axes = _figure(8.5, 0.9 + 0.3 * len(rows))
    for place, (_, figure, colour) in enumerate(rows):
        value = 100 * figure.value
        if figure.low is not None and figure.high is not None:
            axes.plot([100 * figure.low, 100 * figure.high], [place, place], color=colour, linewidth=3, alpha=0.35)
        axes.plot([value], [place], "o", color=colour, markersize=6)
        axes.annotate(f"{value:.1f}", (value, place), (0, 6), textcoords="offset points", ha="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.7)  # reversed, so that the first measure is at the top
    left = min(0.0, *(100 * (f.value if f.low is None else f.low) for _, f, _ in rows))
    right = max(100.0, *(100 * (f.value if f.high is None else f.high) for _, f, _ in rows))
    margin = 0.03 * (right - left)
    axes.set_xlim(left - margin, right + margin)
    axes.set(xlabel="percent (bars: 95 % interval)")
    _save(canvas, path)
    return True


def _draw_latency(axes: Any, result: Result) -> bool:
    """Plot one stacked bar of segments per answer, in the order of their totals, with lines at p50 and p90."""
    items = sorted(result.items, key=lambda item: float(item["first_sound"]))
    places, below = np.arange(len(items)), np.zeros(len(items))
    for segment, colour in _SEGMENT_COLOURS.items():
        heights = np.array([1000 * item[segment] for item in items])
        axes.bar(places, heights, bottom=below, color=colour, width=0.85, label=segment)
        below += heights
    for percent, style in ((50, "--"), (90, ":")):
        value = 1000 * result.figures[f"first_sound_p{percent}_s"].value
        axes.axhline(value, color="black", linestyle=style, linewidth=1, label=f"p{percent}: {value:.0f} ms")
    axes.set(xlabel="answers, the fastest first", ylabel="milliseconds to the first sound")
    axes.set_xticks([])
    axes.margins(x=0.01)
    axes.set_ylim(0, 1.3 * float(below.max()))
    axes.legend(ncols=6, fontsize=8, frameon=False, loc="upper left")
    return True


def _draw_errors(axes: Any, result: Result) -> bool:
    """Plot how many examples have how many wrong words."""
    wrong = [int(item["errors"]) for item in result.items]
    top = min(max(wrong), 10)
    counts = [sum(1 for w in wrong if min(w, top) == k) for k in range(top + 1)]
    labels = [str(k) if k < top or max(wrong) == top else f"{top}+" for k in range(top + 1)]
    bars = axes.bar(range(top + 1), counts, color=[_GREEN, *[_ORANGE] * top], width=0.75)
    axes.bar_label(bars, fontsize=8)
    axes.set_xticks(range(top + 1), labels)
    axes.set(xlabel="wrong words", ylabel="examples")
    return True


def _draw_kl(axes: Any, result: Result) -> bool:
    """Plot the mean KL by position in the answer; return False if there is none."""
    curves = [item["kl"] for item in result.items if item["kl"]]
    if not curves:
        return False
    # Stop where fewer than a fifth of the answers are left: their mean says little.
    enough = max(1, len(curves) // 5)
    places = range(sorted((len(curve) for curve in curves), reverse=True)[enough - 1])
    mean = [float(np.mean([c[i] for c in curves if len(c) > i])) for i in places]
    left = [sum(1 for c in curves if len(c) > i) for i in places]
    axes.bar(places, mean, color=_BLUE, width=0.8)
    for place in places:
        axes.annotate(
            str(left[place]), (place, mean[place]), (0, 2), textcoords="offset points", ha="center", fontsize=6
        )
    axes.set(
        xlabel="text token of the answer (above each bar: answers that are so long)",
        ylabel="mean KL, asked by text against by speech (nats)",
    )
    axes.yaxis.label.set_fontsize(8)
    return True


def _draw_cascade(axes: Any, result: Result) -> bool:
    """Plot, for talker and cascade, the time to the first sound and to the end of each answer."""
    marks = {"talker": _BLUE, "cascade": _ORANGE}
    groups = []
    for name, title in (("first_sound_s", "first sound"), ("total_s", "whole answer")):
        for who in marks:
            values = [item[f"{who}_{name}"] for item in result.items if item.get(f"{who}_{name}") is not None]
            groups.append((who, title, values))
    generator = np.random.default_rng(0)
    for place, (who, _, values) in enumerate(groups):
        if not values:
            continue
        spread = place + generator.uniform(-0.16, 0.16, len(values))  # so that equal times don't hide each other
        axes.plot(values, spread, "o", color=marks[who], markersize=4, alpha=0.4)
        middle = float(np.median(values))
        axes.plot([middle, middle], [place - 0.32, place + 0.32], color=marks[who], linewidth=2.5)
        axes.annotate(f"{middle:.2f} s", (middle, place - 0.34), ha="center", va="bottom", fontsize=8)
    axes.set_yticks(range(len(groups)), [f"{who}: {title}" for who, title, _ in groups])
    axes.set_ylim(len(groups) - 0.5, -0.7)
    axes.set_xlim(left=0)
    axes.set(xlabel="seconds after the user's sound has ended (line: median)")
    return True


_PLOTS: dict[str, tuple[Callable[[Any, Result], bool], tuple[float, float]]] = {
    "asr": (_draw_errors, (6.5, 3.2)),
    "spoken_answers": (_draw_errors, (6.5, 3.2)),
    "reading": (_draw_errors, (6.5, 3.2)),
    "modality_gap": (_draw_kl, (7.5, 3.2)),
    "latency": (_draw_latency, (8.5, 3.6)),
    "cascade": (_draw_cascade, (8.5, 3.4)),
}
