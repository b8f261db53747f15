"""Write a talker folder or a voice for sharing: ``anytalk pack``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import typer

from anytalk.cli.render import count, note, out, size, table
from anytalk.errors import ConfigError


def command(
    folder: Path = typer.Argument(help="Talker folder, with at least one trained stage."),
    out_folder: Path = typer.Option(..., "--out", "-o", help="The new folder."),
    precision: Literal["fp16", "fp32"] = typer.Option(
        "fp16", help="Precision of the file; weights are loaded as float32 either way."
    ),
    take: list[str] = typer.Option(
        [], "--take", help="PART=TALKER: take a part from another talker trained from the same start. May be repeated."
    ),
    voice_only: bool = typer.Option(
        False, "--voice-only", help="Write only the voice, for any model (`attach --voice`)."
    ),
    name: str | None = typer.Option(None, help="Name of the voice; default: the folder's name."),
    assignments: list[str] = typer.Option(
        [], "--set", help="A field of voice.yaml: licence=MIT, language=en, description=... May be repeated."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an existing talker or voice."),
) -> None:
    """Write a talker folder for sharing: trained parts in half precision, curves, no checkpoints."""
    chosen = dict(_taken(entry) for entry in take)
    if voice_only and take:
        raise ConfigError(
            "--take and --voice-only can't be used together", "pack with --take first, then that talker's voice"
        )
    if not voice_only and (name is not None or assignments):
        raise ConfigError("--name and --set are only for voices", "add --voice-only")
    from anytalk.model.pack import pack, pack_voice

    if voice_only:
        settings = [*assignments, *([] if name is None else [f"name={json.dumps(name)}"])]
        parts = pack_voice(folder, out_folder, settings=settings, precision=precision, overwrite=overwrite)
    else:
        parts = pack(folder, out_folder, precision=precision, take=chosen, overwrite=overwrite)
    rows = [(p.name, count(p.parameters), size(p.num_bytes), f"{p.rounding:.1e}") for p in parts]
    total = (sum(p.parameters for p in parts), sum(p.num_bytes for p in parts))
    rows.append(("all", count(total[0]), size(total[1]), ""))
    columns = ("part", "parameters", "size", "largest rounding / RMS")
    out.print(table(f"{out_folder}: packed in {precision}", columns, rows, columns[1:]))
    note(f"the whole folder: {size(sum(p.stat().st_size for p in out_folder.rglob('*') if p.is_file()))}")


def _taken(entry: str) -> tuple[str, Path]:
    part, equals, folder = entry.partition("=")
    if not equals or not part or not folder:
        raise ConfigError(f"'--take {entry}' is not of the form PART=TALKER", "write --take input_adapter=other-talker")
    return part, Path(folder)
