"""Describe a talker folder without loading its weights: ``anytalk info``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import typer
from safetensors import SafetensorError, safe_open

from anytalk.cli.render import count, note, out, pairs, seconds, size, table
from anytalk.errors import AnytalkError, TalkerError
from anytalk.model.config import PART_KINDS, TalkerConfig, read_config
from anytalk.model.voice import VOICE_PARTS
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import Registry, default_registry


def command(
    folder: Path = typer.Argument(help="Talker folder."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show a talker's parts, training history and licences."""
    config = read_config(folder)
    info = describe(folder, config, default_registry())
    if as_json:
        typer.echo(json.dumps(info, indent=2))
        return
    _show(folder, config, info)


def count_tensors(path: Path) -> dict[str, int]:
    """Count the parameters of each part in a ``.safetensors`` file by its header alone.

    Raises:
        TalkerError: a file that is missing, truncated or not safetensors.
    """
    again = "copy the folder again, or train again"
    try:
        with safe_open(path, framework="np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise TalkerError(f"'{path}' is missing; talker.yaml names it", again) from None
    except (OSError, SafetensorError) as error:
        raise TalkerError(f"'{path}' can't be read: {' '.join(str(error).split())}", again) from None
    counts: dict[str, int] = {}
    for name, shape in shapes.items():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + math.prod(shape)
    return counts


def describe(folder: Path, config: TalkerConfig, registry: Registry) -> dict[str, Any]:
    """Return what ``--json`` prints: the configuration, licences, and how many parameters of each part are saved."""
    saved = count_tensors(folder / config.weights.file) if config.weights else {}
    trained = {part for record in config.history for part in record.trained}
    parts: dict[str, dict[str, Any]] = {}
    for part, kind in PART_KINDS.items():
        ref: PartRef | None = getattr(config, part)
        if ref is not None:
            parts[part] = {"plugin": ref.name, "options": ref.options, "licence": _licence(registry, kind, ref.name)}
    if config.base is not None and config.base.licence != "unknown":
        # The model has its own licence, which the plugin that loads it doesn't know.
        parts["backbone"]["licence"] = config.base.licence
    for part in ("audio_embeddings", "special_tokens", *(["speaker"] if config.speakers else [])):
        parts[part] = {"plugin": "built in", "options": {}, "licence": "yours"}
    for part, facts in parts.items():
        was_imported = part in saved and not config.history and config.voice is None
        facts["state"] = "imported" if was_imported else _state(part, trained)
        facts["saved_parameters"] = saved.get(part, 0)
        if config.voice is not None and part in VOICE_PARTS and part not in trained:
            facts |= {"state": f"voice {config.voice.name}", "licence": config.voice.licence}
    return {
        "folder": str(folder),
        "library_version": config.library_version,
        "base": config.base.model_dump() if config.base else None,
        "parts": parts,
        "grid": config.grid.model_dump(),
        "speakers": config.speakers,
        "voice": config.voice.model_dump() if config.voice else None,
        "codec_fingerprint": config.codec_fingerprint,
        "backbone_folder": config.backbone_folder,
        "decode_rule": config.decode_rule,
        "encoder_width": config.encoder_width,
        "weights": config.weights.model_dump() if config.weights else None,
        "history": [record.model_dump() for record in config.history],
    }


def _state(part: str, trained: set[str]) -> str:
    if part in trained:
        return "trained"
    if part == "hearing":
        return "no weights"
    return "pretrained" if part in ("backbone", "encoder", "ears", "codec") else "untrained"


def _licence(registry: Registry, kind: str, name: str) -> str:
    if kind in ("input adapter", "output adapter", "heads"):
        return "yours"
    try:
        return registry.licence(kind, name)
    except AnytalkError:
        return "unknown: its plugin is not installed"


def _with_options(ref: PartRef) -> str:
    given = ", ".join(f"{name}={value}" for name, value in ref.options.items() if value is not None)
    return f"{ref.name} ({given})" if given else ref.name


def _show(folder: Path, config: TalkerConfig, info: dict[str, Any]) -> None:
    base, grid = config.base, config.grid
    pattern = grid.delay_pattern()
    voice = config.voice
    facts = [
        ("base model", f"{base.model} (fingerprint {base.fingerprint})" if base else "unknown"),
        ("backbone", _with_options(config.backbone)),
        *([("found", "\n".join(base.findings))] if base and base.findings else []),
        ("made with", f"anytalk {config.library_version}"),
        ("streams", f"{pattern.num_audio_streams} audio + 1 text, {pattern.codebook_size} codes each"),
        ("grid", f"pattern {grid.pattern}, text lead {grid.text_lead}, merge {grid.merge}, prompt {grid.prompt}"),
        ("text ends with", grid.end_of_text),
        ("decode rule", config.decode_rule),
        *([("voice", f"{voice.name} ({voice.licence}, fingerprint {voice.fingerprint[:16]})")] if voice else []),
        ("speakers", ", ".join(config.speakers) or "one, unnamed"),
        ("codec fingerprint", config.codec_fingerprint or "not written down (version 1)"),
        ("trained backbone", config.backbone_folder or "none: it is the base model"),
        ("weights", f"{config.weights.file}, {size(config.weights.num_bytes)}" if config.weights else "none yet"),
    ]
    out.print(pairs(folder.name, facts))
    out.print()
    rows = [
        (part, f["plugin"], f["state"], count(f["saved_parameters"]) if f["saved_parameters"] else "-", f["licence"])
        for part, f in info["parts"].items()
    ]
    out.print(table("Parts", ("part", "plugin", "state", "saved here", "licence"), rows, numbers=("saved here",)))
    out.print()
    if not config.history:
        if config.weights is None:
            note("never trained: it reads and writes as its base model does (`anytalk train`)")
        return
    columns: tuple[str, ...] = ("stage", "trained", "steps", "loss before", "loss after", "time")
    history: list[tuple[str, ...]] = [
        (r.name, ", ".join(r.trained), str(r.steps), f"{r.loss_first:.3f}", f"{r.loss_last:.3f}", seconds(r.seconds))
        for r in config.history
    ]
    out.print(table("History", columns, history, numbers=columns[2:]))
