"""Time the answers of a talker, part by part: ``anytalk bench decode``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from anytalk.cli.devices import choose_device, set_threads
from anytalk.cli.render import err, note, out, say, table
from anytalk.errors import ConfigError
from anytalk.model.config import read_config
from anytalk.plugins.optional import require

if TYPE_CHECKING:
    from rich.table import Table

    from anytalk.model.talker import Talker

_REFERENCE = ("reference", "tiny")


def command(
    talker: str = typer.Argument(
        "reference", help="Talker folder, or 'reference': the paper's stack at its true shapes, filled at random."
    ),
    arithmetic: str = typer.Option("int8", help="exact, fused, graphs, packed, int8 or int4."),
    baseline: bool = typer.Option(False, "--baseline", help="Also run the plain loop and print ratios."),
    question: float = typer.Option(3.0, min=0.2, max=30.0, help="Seconds of the spoken question."),
    sound: Path | None = typer.Option(None, help="Question (.wav) instead of noise, which holds no words."),
    text_columns: int = typer.Option(48, min=2, help="Answer columns with text (batch-parallel)."),
    audio_columns: int = typer.Option(48, min=12, help="Answer columns after the text has ended."),
    repeats: int = typer.Option(2, min=1, help="Measured answers, after one warm-up answer."),
    stride: int = typer.Option(2, min=1, help="Codec frames per chunk of sound after the first."),
    length: list[int] = typer.Option([], help="Also time a step at this many columns of context. May be repeated."),
    json_file: Path | None = typer.Option(None, "--json", help="Also write all figures to this file."),
    profile: Path | None = typer.Option(None, help="Also plot where the time of a step goes (.png)."),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads."),
) -> None:
    """Time answers part by part, and optionally the plain loop for comparison."""
    if profile is not None:
        require("--profile", "report", "matplotlib")
    if talker not in _REFERENCE:
        config = read_config(Path(talker))
        if not config.hears:
            raise ConfigError("this talker has no ears", "bench a talker that can be asked by voice")
        if config.ears is not None and sound is None:
            raise ConfigError("the ears of this talker write words, and noise has none", "add --sound QUESTION.wav")
    with err.status("loading torch and the talker ...") as status:
        from anytalk.bench.answering import Pace
        from anytalk.bench.decoding import DecodeBench, bench_decode

        set_threads(threads)
        bench = DecodeBench(
            arithmetic=arithmetic,
            question_s=question,
            question=sound,
            pace=Pace(text_columns, audio_columns),
            repeats=repeats,
            baseline=baseline,
            stride_frames=stride,
            lengths=tuple(sorted(length)),
        )
        figures = bench_decode(_load(talker, device), bench, lambda what: status.update(f"{what} ..."))
    show(figures)
    if profile is not None:
        from anytalk.bench.picture import draw_step

        draw_step(figures, profile)
        note(f"where a step goes: {profile}")
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _load(name: str, device: str) -> Talker:
    if name in _REFERENCE:
        from anytalk.bench.reference import reference_talker

        if device not in ("auto", "cpu"):
            talker = reference_talker(name)
            talker.device = choose_device(device)
            talker.model.to(talker.device)
            return talker
        return reference_talker(name)
    from anytalk.model.talker import load_talker

    return load_talker(Path(name), device=choose_device(device))


def show(figures: dict[str, Any]) -> None:
    """Print the figures as tables, ratios first."""
    machine = figures["machine"]
    say(
        f"{figures['arithmetic']}, {machine['device']}, {machine['threads']} thread(s), {machine['cpu_capability']}, "
        f"torch {machine['torch']}, load average {machine['load_average']}"
    )
    rows = [
        ("real-time factor, text and speech", f"{figures['real_time_factor']:.2f}", ""),
        ("real-time factor, text ended", f"{figures['real_time_factor_text_ended']:.2f}", ""),
        ("real-time factor, question to last sample", f"{figures['real_time_factor_whole']:.2f}", ""),
        ("codec alone, real-time factor", f"{figures['codec_real_time_factor']:.2f}", ""),
        ("first sound", f"{figures['first_audio_s']:.2f} s", _ratio(figures, "first_audio")),
        ("step, text and speech", f"{figures['step_ms']:.1f} ms", _ratio(figures, "step")),
        ("step, text ended", f"{figures['step_text_ended_ms']:.1f} ms", ""),
    ]
    if figures["cache_mb"]:
        rows.append(("memory of the cache", f"{figures['cache_mb']:.0f} MB", ""))
    if "baseline_step_ms" in figures:
        rows.append(("straightforward loop, first sound", f"{figures['baseline_first_audio_s']:.2f} s", "1"))
        rows.append(("straightforward loop, step without codec", f"{figures['baseline_step_ms']:.1f} ms", "1"))
    numbers = ("value", "times faster")
    out.print(table("answers", ("what", *numbers), rows, numbers=numbers))
    _show_segments(figures)
    if "step_ms_at_length" in figures:
        out.print(_late_steps(figures))


def _late_steps(figures: dict[str, Any]) -> Table:
    """Build the table of steps that come after a long context.

    Only the backbone's share depends on the context; codec, sampling and the rest are added from the answers above.
    """
    independent = ("codec", "sampling", "other")
    same = {rows: sum(figures["segments"][kind][name] for name in independent) for rows, kind in _LATE.items()}
    first: dict[str, float] = {}
    lines = []
    for length, found in figures["step_ms_at_length"].items():
        line = [length]
        for rows, beside in same.items():
            if rows in found:
                whole = found[rows] + beside
                line += [f"{whole:.1f}", f"{whole / first.setdefault(rows, whole):.2f}"]
            else:
                line += ["", ""]
        lines.append((*line, f"{found['rows_1_held']:.0f}"))
    names = ("columns before it", "text and speech, ms", "times", "text ended, ms", "times ", "columns held")
    return table("a step late in a conversation", names, lines, numbers=names)


_LATE = {"rows_2": "step_ms", "rows_1": "step_text_ended_ms"}


def _ratio(figures: dict[str, Any], name: str) -> str:
    value = figures.get(f"times_faster_{name}")
    return "" if value is None else f"{value:.1f}"


def _show_segments(figures: dict[str, Any]) -> None:
    two, one = figures["segments"]["step_ms"], figures["segments"]["step_text_ended_ms"]
    rows = [
        (name.replace("_", " "), f"{two[name]:.2f}", f"{two[name] / two['wall']:.0%}", f"{one[name]:.2f}")
        for name in two
    ]
    columns = ("segment", "text and speech, ms", "share", "text ended, ms")
    out.print(table("where a step goes", columns, rows, numbers=columns[1:]))
    first = figures["segments"]["first_sound_s"]
    base = figures.get("baseline_segments", {})
    rows_first = [(name, f"{first[name]:.3f}", _seconds(base.get(f"{name}_s"))) for name in first]
    headings = ("segment", "s", "straightforward, s")
    out.print(table("what the first sound waits for", headings, rows_first, numbers=headings[1:]))


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
