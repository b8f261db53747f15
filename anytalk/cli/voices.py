"""List the voices of installed packages: ``anytalk voices``."""

from __future__ import annotations

import json
from typing import Any

import typer

from anytalk.cli.render import complain, note, out, size, table
from anytalk.errors import AnytalkError
from anytalk.model.voice import WHERE_VOICES_ARE, registered_voice
from anytalk.plugins.registry import default_registry


def command(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List installed voices, for `attach --voice`."""
    registry, voices = default_registry(), []
    for name in registry.components("voice"):
        try:
            voices.append(_facts(name))
        except AnytalkError as error:
            complain(error.message, error.hint)
    if as_json:
        typer.echo(json.dumps(voices, indent=2))
        return
    if not registry.components("voice"):
        note(f"no voice is installed: {WHERE_VOICES_ARE}")
        return
    rows = [
        (
            v["name"],
            v["language"] or "several",
            ", ".join(v["speakers"]) or "one",
            v["licence"],
            v["package"],
            size(v["bytes"]),
        )
        for v in voices
    ]
    out.print(table("Voices", ("name", "language", "speakers", "licence", "package", "size"), rows, numbers=("size",)))
    note("anytalk attach MODEL -o talker --voice NAME")


def _facts(name: str) -> dict[str, Any]:
    registry = default_registry()
    found, offer = registered_voice(name, registry), registry.find("voice", name)
    return {
        "name": name,
        "language": found.voice.language,
        "speakers": found.voice.speakers,
        "licence": found.voice.licence,
        "description": found.voice.description,
        "package": f"{offer.distribution} {offer.version}",
        "folder": str(found.folder),
        "bytes": sum(path.stat().st_size for path in found.folder.rglob("*") if path.is_file()),
    }
