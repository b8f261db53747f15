"""Transcribe a sound file: ``anytalk transcribe``."""

from __future__ import annotations

from pathlib import Path

import typer

from anytalk.cli.render import err, say
from anytalk.grid.audio import read_wave
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry

_RATE_HZ = 16_000


def command(
    wav: Path = typer.Argument(help="Sound file."),
    transcriber: str = typer.Option("whisper", help="Transcriber plugin."),
    model: str | None = typer.Option(None, help="Weights: a Whisper name, file or package:..."),
    reference: str | None = typer.Option(None, help="Expected text; prints the word error rate."),
) -> None:
    """Transcribe a sound file; with --reference, count wrong words."""
    registry = default_registry()
    registry.find("transcriber", transcriber)
    wave = read_wave(wav, _RATE_HZ)
    with err.status("listening (loading torch) ..."):
        options = {} if model is None else {"model": model}
        judge = registry.build("transcriber", PartRef(name=transcriber, options=options))
        heard: str = judge.transcribe(wave, _RATE_HZ)
    typer.echo(heard)
    if reference is not None:
        from anytalk.evaluate.wer import word_error_rate

        result = word_error_rate([reference], [heard])
        say(
            f"word error rate {result.wer:.1%}: {result.substitutions} other, {result.insertions} added, "
            f"{result.deletions} missing, of {result.reference_words} words"
        )
