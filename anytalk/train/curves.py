"""The loss curve of a stage as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw_curve(path: Path, title: str, log: Sequence[dict[str, float]], losses: Mapping[str, Sequence[str]]) -> None:
    """Write a PNG of the losses (name -> streams) over the steps of a log: each loss bold, each of its streams thin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    thin = {stream for name, streams in losses.items() for stream in streams if stream != name}
    drawn = {*losses, *thin}
    names = sorted(name for name in {n for entry in log for n in entry} if name.removeprefix("held_out.") in drawn)
    for name in names:
        points = [(entry["step"], entry[name]) for entry in log if name in entry]
        bare = name.removeprefix("held_out.")
        is_stream = bare in thin
        if bare != name and is_stream:
            continue  # the bold lines say enough about other rows
        axes.plot(
            *zip(*points, strict=True),
            label=name,
            linestyle="-" if bare == name else "--",
            linewidth=0.7 if is_stream else 2.2,
            alpha=0.6 if is_stream else 1,
        )
    axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if names:
        axes.legend(ncols=2, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
