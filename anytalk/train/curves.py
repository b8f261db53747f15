"""Draw the loss curve of a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw_curve(path: Path, title: str, log: Sequence[dict[str, float]], losses: Mapping[str, Sequence[str]]) -> None:
    """Write a PNG of the losses in a log over its steps, each with a bold line, and thin lines for its streams."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    streams = {stream: name for name, found in losses.items() for stream in found if stream != name}
    logged = {name for entry in log for name in entry}
    # Losses first: the colours repeat after ten lines, and no loss may share its colour with one of its streams.
    drawn = [name for name in [*sorted(losses), *sorted(streams)] if name in logged]
    for place, name in enumerate(drawn):
        axes.plot(
            *_points(log, name),
            label=name,
            color=f"C{place % 10}",
            linewidth=0.7 if name in streams else 2.2,
            alpha=0.6 if name in streams else 1,
        )
    for place, name in enumerate(drawn):
        held_out = f"held_out.{name}"
        if held_out in logged and name not in streams:  # streams of held-out losses would only crowd the picture
            # A short stage may have only one measurement, which a line alone wouldn't show.
            axes.plot(*_points(log, held_out), "o--", label=held_out, color=f"C{place % 10}", linewidth=2.2)
    axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(ncols=2, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _points(log: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Return the steps at which a loss was logged, and its values."""
    found = [(entry["step"], entry[name]) for entry in log if name in entry]
    return [step for step, _ in found], [value for _, value in found]
