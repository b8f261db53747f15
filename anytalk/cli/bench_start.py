"""Time fresh processes from the command to the first text of the answer: ``anytalk bench start``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from anytalk.bench.starting import SEGMENTS, measure_answers, measure_commands, measure_server
from anytalk.cli.render import err, out, say, table
from anytalk.errors import ConfigError
from anytalk.model.config import CONFIG_FILE


def command(
    talker: str = typer.Argument(help="Talker folder, or a model as for `anytalk attach`."),
    question: Path | None = typer.Option(None, help="A spoken question (.wav); default: typed ones only."),
    text: str = typer.Option("What is the capital of Italy?", help="The typed question."),
    voice: str | None = typer.Option(None, help="Voice to attach, if a model is given."),
    arithmetic: str | None = typer.Option(None, help="As for `anytalk talk`."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads."),
    repeats: int = typer.Option(3, min=1, help="Measurements of each case; medians are printed."),
    server: bool = typer.Option(False, "--serve", help="Also compare a server's first answers with later ones."),
    json_file: Path | None = typer.Option(None, "--json", help="Also write all figures to this file."),
) -> None:
    """Time fresh processes from the command to the first text, with an empty and a filled cache, by segments."""
    if question is not None and not question.is_file():
        raise ConfigError(f"'{question}' doesn't exist", "give a sound file: --question FILE.wav")
    options = ["--arithmetic", arithmetic] if arithmetic is not None else []
    options += ["--threads", str(threads)] if threads is not None else []
    with err.status("measuring ...") as status, TemporaryDirectory() as place:

        def told(what: str) -> None:
            status.update(f"measuring: {what} ...")

        folder = Path(talker)
        if not (folder / CONFIG_FILE).is_file():
            folder = _attached(talker, voice, Path(place) / "talker")
        load = os.getloadavg()[0]
        figures: dict[str, Any] = {
            "cores": os.cpu_count(),
            "load_average": load,
            "repeats": repeats,
            "commands": measure_commands(folder, repeats, told),
            "answers": measure_answers(folder, text, question, repeats, options, told),
        }
        if server:
            figures["server"] = measure_server(folder, text, question, told)
    show(figures)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _attached(model: str, voice: str | None, folder: Path) -> Path:
    """Attach the model in another process and return the talker's folder; this process imports nothing for it."""
    words = ["attach", model, "-o", str(folder), *(["--voice", voice] if voice is not None else [])]
    done = subprocess.run([sys.executable, "-m", "anytalk", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(
            f"'{model}' is not a talker folder, and couldn't be attached: {done.stderr.strip()}",
            "give a talker folder, or a voice with it: --voice heart",
        )
    return folder


def show(figures: dict[str, Any]) -> None:
    """Print the figures as tables."""
    say(
        f"{figures['cores']} cores, load average {figures['load_average']:.1f} before it, "
        f"medians of {figures['repeats']}, seconds"
    )
    clocks = ("wall", "processor")
    looks = [(name, *(f"{spent[clock]:.2f}" for clock in clocks)) for name, spent in figures["commands"].items()]
    out.print(table("commands", ("command", *clocks), looks, numbers=clocks))
    for kind, times in figures["answers"].items():
        names = {"total": "to the first text", "processor": "processor time of it"}
        rows = [
            (names.get(name, f"  {name}"), *(f"{times[time_][name]:.2f}" for time_ in ("first", "second")))
            for name in ("total", *SEGMENTS, "processor")
        ]
        columns = ("what", "first time", "second time")
        out.print(table(f"a {kind} question", columns, rows, numbers=columns[1:]))
    if "server" in figures:
        _show_server(figures["server"])


def _show_server(figures: dict[str, Any]) -> None:
    say(f"a server prints its addresses after {figures['ready']:.2f} s")
    answers = {kind: figures[kind] for kind in ("typed", "spoken") if kind in figures}
    columns = ("first sound of", *(f"answer {number}" for number in (1, 2, 3)))
    rows = [(f"{kind} questions", *(f"{wait:.2f}" for wait in waits)) for kind, waits in answers.items()]
    out.print(table("a server", columns, rows, numbers=columns[1:]))
