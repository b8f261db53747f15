"""Draws how the time of a step is distributed over the parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anytalk.bench.stopwatch import STEP_SEGMENTS


def draw_step(figures: dict[str, Any], path: Path) -> None:
    """Draw a bar with segments for each kind of step, and a line at the duration of the sound that a step makes."""
    # Matplotlib is an optional package; Agg draws without a display.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = {"text and speech": figures["segments"]["step_ms"], "text ended": figures["segments"]["step_text_ended_ms"]}
    frame_ms = figures["step_ms"] / figures["real_time_factor"] if figures["real_time_factor"] else 0.0
    figure, axes = pyplot.subplots(figsize=(9, 2.6))
    for row, (kind, segments) in enumerate(kinds.items()):
        left = 0.0
        for number, name in enumerate(STEP_SEGMENTS):
            value = segments.get(name, 0.0)
            label = name.replace("_", " ") if row == 0 else None
            axes.barh(kind, value, left=left, color=f"C{number}", label=label)
            if value > 0.06 * max(segments["wall"], 1e-9):
                axes.text(left + value / 2, row, f"{value:.1f}", ha="center", va="center", fontsize=8)
            left += value
    axes.axvline(frame_ms, color="black", linestyle="--", linewidth=1)
    axes.text(frame_ms, 1.45, f"{frame_ms:.0f} ms of sound ", fontsize=8, ha="right", va="bottom")
    axes.set_xlabel("milliseconds")
    axes.invert_yaxis()
    axes.legend(ncols=len(STEP_SEGMENTS), fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.3), frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
