"""Packs talkers for sharing: in half precision, and with parts of other talkers that were trained separately."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anytalk.errors import TalkerError
from anytalk.files import written_whole
from anytalk.model.attach import check_vacant
from anytalk.model.card import model_card
from anytalk.model.config import (
    CONFIG_FILE,
    PART_KINDS,
    AudioGrid,
    StageRecord,
    TalkerConfig,
    dump_config,
    override,
    read_config,
)
from anytalk.model.own_files import NOT_SHARED, copy_files, own_files, writing
from anytalk.model.talker import Talker, load_talker, pinned, read_parts, write_parts
from anytalk.model.voice import VOICE_FILE
from anytalk.model.voice_parts import voice_tensors, write_voice
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry
from anytalk.plugins.sources import is_there

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
_EARS = ("encoder", "input_adapter")
_OF_VOICE = ("output_adapter", "heads", "codec")
_PARTS_FILE = "parts-0001.safetensors"


@dataclass(frozen=True)
class PackedPart:
    """Describes a part in a packed folder."""

    name: str  # the part's name
    parameters: int  # how many numbers it has
    num_bytes: int  # their size in the file
    rounding: float  # largest change by rounding, relative to the root mean square of the part's numbers


def pack(
    folder: Path,
    out: Path,
    *,
    precision: str = "fp16",
    take: Mapping[str, Path] | None = None,
    overwrite: bool = False,
) -> list[PackedPart]:
    """Write a copy of a talker folder with only what others need: one file of weights and no checkpoints.

    A trained backbone, codec weights inside the talker folder, licences and notices are copied unchanged.

    Args:
        folder: A talker folder with at least one trained stage.
        out: The folder to write.
        precision: Precision of the file, ``"fp16"`` or ``"fp32"``; loading converts both to float32.
        take: Parts to take from other talker folders, which were trained separately from the same start.
        overwrite: Whether to replace a talker at `out`.

    Returns:
        The parts in the file, sorted by name.

    Raises:
        TalkerError: There is no talker, or it has no weights; a file is missing or damaged; a part doesn't exist or has
            another shape; a value isn't finite or doesn't fit half precision; `out` exists or can't be written. Nothing
            half-written is left.
    """
    take, registry = take or {}, default_registry()
    config = pinned(read_config(folder), registry)
    _check_place(out, (folder, *take.values()), overwrite)
    tensors, history = _weights(folder, config), list(config.history)
    for part, other in take.items():
        taken, records = _taken(part, folder, config, tensors, (other, pinned(read_config(other), registry)))
        tensors |= taken
        history += [record for record in records if record.name not in {r.name for r in history}]
    rounded = {name: _rounded(name, tensor, _DTYPES[precision]) for name, tensor in tensors.items()}
    names = sorted(config.weights.parts) if config.weights else []
    files = _own_files(folder, config)
    with writing(out), written_whole(out) as partial:
        partial.mkdir(parents=True)
        # The talker's own history comes last and wins where names are equal.
        for source in (*take.values(), folder):
            if (source / "history").is_dir():
                shutil.copytree(source / "history", partial / "history", ignore=NOT_SHARED, dirs_exist_ok=True)
        copy_files(files, partial)
        weights = write_parts(partial / _PARTS_FILE, rounded, names)
        config = config.replace(weights=weights.model_dump(), history=[record.model_dump() for record in history])
        (partial / "README.md").write_text(model_card(config, out.name), encoding="utf-8")
        (partial / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    return [_summary(name, tensors, rounded) for name in names]


def pack_voice(
    folder: Path,
    out: Path,
    *,
    settings: list[str] | None = None,
    precision: str = "fp16",
    overwrite: bool = False,
) -> list[PackedPart]:
    """Write a voice folder: the speech decoder of a trained talker, for any backbone (``attach --voice``).

    Args:
        folder: A talker folder with a trained speech decoder.
        out: The folder to write; its name becomes the voice's name, unless `settings` give another.
        settings: Values for ``voice.yaml``, ``field=value``, such as ``licence=MIT``.
        precision: Precision of the file, ``"fp16"`` or ``"fp32"``; loading converts both to float32.
        overwrite: Whether to replace a voice at `out`.

    Returns:
        The parts in the file, sorted by name.

    Raises:
        TalkerError: The speech decoder is untrained or needs its backbone; otherwise as :func:`pack`.
        ConfigError: ``voice.yaml`` doesn't have one of the settings.
    """
    _check_place(out, (folder,), overwrite, VOICE_FILE)
    talker = load_talker(folder, with_encoder=False)
    _check_voice(talker, folder)
    tensors = voice_tensors(talker.model)
    rounded = {name: _rounded(name, tensor, _DTYPES[precision]) for name, tensor in tensors.items()}
    config = pinned(talker.config, talker.registry)
    files = own_files(folder, [getattr(config, role) for role in _OF_VOICE])
    data = {
        "name": out.absolute().name,
        "licence": "unknown" if config.voice is None else config.voice.licence,
        **{role: _brought_in(role, getattr(config, role), files) for role in _OF_VOICE},
        "codec_fingerprint": talker.codec.fingerprint,
        "grid": config.grid.model_dump(include=set(AudioGrid.model_fields)),
        "speakers": config.speakers,
    }
    voice = write_voice(out, override(data, settings or []), rounded, files)
    return [_summary(name, tensors, rounded) for name in voice.weights.parts]


def _brought_in(role: str, part: PartRef, files: dict[Path, Path]) -> dict[str, Any]:
    """Make local files in a part's options relative to the voice folder, and add them to `files` to be copied there."""
    options = dict(part.options)
    for name, value in options.items():
        path = Path(value) if isinstance(value, str) else Path()
        if path.is_absolute() and is_there(path):
            inside = Path(role) / path.name
            files[inside], options[name] = path, str(inside)
    return {"name": part.name, "options": options}


def _check_voice(talker: Talker, folder: Path) -> None:
    """Refuse a speech decoder that is untrained or needs its backbone."""
    config, adapter = talker.config, talker.model.output_adapter
    if not adapter.fits_any_backbone or config.grid.merge != "sum":
        why = "adds its audio to the backbone's text by the mean" if adapter.fits_any_backbone else "needs its backbone"
        raise TalkerError(
            f"the output adapter of '{folder}' ({config.output_adapter.name}) {why},"
            " so it can't be a voice for other models",
            "a voice is a speech decoder that reads the text alone: attach --output-adapter talker, then train it",
        )
    trained = {part for record in config.history for part in record.trained}
    if config.weights is None or (config.voice is None and "output_adapter" not in trained):
        raise TalkerError(
            f"the output adapter of '{folder}' is untrained, so it has nothing to pack",
            f"type: anytalk train {folder} ...",
        )


def _check_place(out: Path, sources: tuple[Path, ...], overwrite: bool, mark: str = CONFIG_FILE) -> None:
    """Refuse to write into a talker that is read, or over a folder that doesn't hold a file `mark`."""
    place = out.resolve()
    for source in (source.resolve() for source in sources):
        if place.is_relative_to(source) or source.is_relative_to(place):
            raise TalkerError(
                f"'{out}' and the talker '{source}' are inside one another, but packing must not change its input",
                "name a folder beside it",
            )
    if out.exists() and not overwrite:
        raise TalkerError(f"'{out}' already exists", "name another folder, or give --overwrite")
    check_vacant(out, overwrite, mark)


def _weights(folder: Path, config: TalkerConfig) -> dict[str, Tensor]:
    if config.weights is None:
        raise TalkerError(f"'{folder}' holds no weights: no stage was trained", f"type: anytalk train {folder} ...")
    return read_parts(folder, config.weights)


def _taken(
    part: str,
    folder: Path,
    config: TalkerConfig,
    tensors: Mapping[str, Tensor],
    source: tuple[Path, TalkerConfig],
) -> tuple[dict[str, Tensor], list[StageRecord]]:
    """Return a part's tensors and history from another talker with the same base model, grid, part and codes."""
    other, theirs = source
    # The parts that listen never see codes.
    codes = () if part in _EARS else ("codec_fingerprint",)
    for field in ("base", "grid", part, *codes):
        if getattr(config, field, None) != getattr(theirs, field, None):
            raise TalkerError(
                f"'{other}' has a different '{field}' from '{folder}', so its {part} doesn't fit",
                "attach both with the same settings",
            )
    for path, its_config in ((folder, config), (other, theirs)):
        if its_config.backbone_folder is not None:
            raise TalkerError(
                f"the backbone of '{path}' was trained, so parts of '{other}' and '{folder}' don't go together",
                "leave --take out",
            )
    found = {name: t for name, t in _weights(other, theirs).items() if name.startswith(f"{part}.")}
    mine = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith(f"{part}.")}
    if not found or {name: tuple(t.shape) for name, t in found.items()} != mine:
        raise TalkerError(
            f"part '{part}' of '{other}' is missing or has other tensors than that of '{folder}'",
            "attach both with the same settings",
        )
    return found, list(theirs.history)


def _own_files(folder: Path, config: TalkerConfig) -> dict[Path, Path]:
    """Return the talker's other files: the path of each relative to its folder, and where it is."""
    parts = [getattr(config, role) for role in PART_KINDS if role != "backbone"]
    found = own_files(folder, [part for part in parts if part is not None])
    if config.backbone_folder is not None:
        own = Path(config.backbone_folder)
        if not (folder / own).is_dir():
            raise TalkerError(f"'{folder / own}' is missing; talker.yaml names it", "copy the folder again")
        found[own] = folder / own
    return found


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise TalkerError(f"tensor '{name}' holds values that are not finite", "train again from an earlier state")
    # Values beyond half precision become infinite, which the next check finds.
    found = tensor.to(dtype)
    if not bool(torch.isfinite(found).all()):
        raise TalkerError(
            f"tensor '{name}' holds values that {str(dtype).removeprefix('torch.')} can't hold: "
            f"up to {float(tensor.abs().max()):.3g}",
            "pack with --precision fp32",
        )
    return found.contiguous()


def _summary(part: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> PackedPart:
    names = [name for name in after if name.startswith(f"{part}.")]
    parameters = sum(after[name].numel() for name in names)
    squares = sum(float(before[name].double().square().sum()) for name in names)
    changes = [float((after[name].float() - before[name].float()).abs().max()) for name in names if after[name].numel()]
    rms = (squares / max(1, parameters)) ** 0.5
    return PackedPart(
        name=part,
        parameters=parameters,
        num_bytes=sum(after[name].numel() * after[name].element_size() for name in names),
        rounding=max(changes, default=0.0) / rms if rms else 0.0,
    )
