"""Packing: a talker folder fit for sharing, in half precision, with parts of others that were trained beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from anytalk.errors import TalkerError
from anytalk.files import written_whole
from anytalk.model.attach import check_vacant
from anytalk.model.card import model_card
from anytalk.model.config import CONFIG_FILE, StageRecord, TalkerConfig, dump_config, read_config
from anytalk.model.talker import pinned, read_parts, write_parts
from anytalk.plugins.registry import Registry, default_registry

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
_EARS = ("encoder", "input_adapter")
_PARTS_FILE = "parts-0001.safetensors"
_NOT_SHARED = shutil.ignore_patterns("*.checkpoint*", "*.partial*", "tensorboard")


@dataclass(frozen=True)
class PackedPart:
    """A part in a packed folder.

    Attributes:
        name: Of the part.
        parameters: How many numbers it has.
        num_bytes: Their size.
        rounding: Largest change that rounding made, relative to the root mean square of the part's numbers.
    """

    name: str
    parameters: int
    num_bytes: int
    rounding: float


def pack(
    folder: Path,
    out: Path,
    *,
    precision: str = "fp16",
    take: Mapping[str, Path] | None = None,
    overwrite: bool = False,
    registry: Registry | None = None,
) -> list[PackedPart]:
    """Write a talker folder anew with what sharing needs and nothing else: no checkpoints, one file of weights.

    A trained backbone, and codec weights that lie in the talker folder, are copied as they are.

    Args:
        folder: A talker folder of which a stage was trained.
        out: Where the new one goes.
        precision: ``"fp16"`` or ``"fp32"`` of the file; loading makes float32 of both.
        take: Parts that come from other talker folders, which were trained beside this one from the same start.
        overwrite: Replace the talker that lies at `out`.
        registry: Where parts are found.

    Returns:
        The parts in the file, by name.

    Raises:
        TalkerError: no talker or no weights, a file that is missing or damaged, a part that isn't there or has another
            form, a value that is no number or that half precision can't hold, or a place that is taken or can't be
            written; nothing half-written is left.
    """
    take, registry = take or {}, registry or default_registry()
    config = pinned(read_config(folder), registry)
    _check_place(out, (folder, *take.values()), overwrite)
    tensors, history = _weights(folder, config), list(config.history)
    for part, other in take.items():
        taken, records = _taken(part, folder, config, tensors, (other, pinned(read_config(other), registry)))
        tensors |= taken
        history += [record for record in records if record.name not in {r.name for r in history}]
    rounded = {name: _rounded(name, tensor, _DTYPES[precision]) for name, tensor in tensors.items()}
    names = sorted(config.weights.parts) if config.weights else []
    own_files = _own_files(folder, config)
    try:
        with written_whole(out) as partial:
            partial.mkdir(parents=True)
            for source in (*take.values(), folder):
                if (source / "history").is_dir():
                    shutil.copytree(source / "history", partial / "history", ignore=_NOT_SHARED, dirs_exist_ok=True)
            for path in own_files:
                _copy(folder / path, partial / path)
            weights = write_parts(partial / _PARTS_FILE, rounded, names)
            config = config.replace(weights=weights.model_dump(), history=[record.model_dump() for record in history])
            (partial / "README.md").write_text(model_card(config, out.name), encoding="utf-8")
            (partial / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    except (OSError, safetensors.SafetensorError) as error:
        raise TalkerError(
            f"'{out}' can't be written: {_reason(error)}", "is it writable, and the disk not full?"
        ) from None
    return [_summary(name, tensors, rounded) for name in names]


def _check_place(out: Path, sources: tuple[Path, ...], overwrite: bool) -> None:
    """Refuse to write into a talker that is read, or over anything that isn't a talker."""
    place = out.resolve()
    for source in (source.resolve() for source in sources):
        if place.is_relative_to(source) or source.is_relative_to(place):
            raise TalkerError(
                f"'{out}' and the talker '{source}' lie in one another; packing never changes what it reads",
                "name a folder beside it",
            )
    if out.exists() and not overwrite:
        raise TalkerError(f"'{out}' is there already", "name another folder, or give --overwrite")
    check_vacant(out, overwrite)


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
    """Tensors of a part of another talker, and its history; base model, grid, part and codes have to be the same."""
    other, theirs = source
    codes = () if part in _EARS else ("codec_fingerprint",)
    for field in ("base", "grid", part, *codes):
        if getattr(config, field, None) != getattr(theirs, field, None):
            raise TalkerError(
                f"'{other}' has another '{field}' than '{folder}', so its {part} doesn't fit",
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
            f"part '{part}' of '{other}' isn't there or has another form than that of '{folder}'",
            "attach both with the same settings",
        )
    return found, list(theirs.history)


def _own_files(folder: Path, config: TalkerConfig) -> list[Path]:
    """What else of the talker lies in its folder: a trained backbone, codec weights; relative to the folder."""
    found = []
    if config.backbone_folder is not None:
        own = Path(config.backbone_folder)
        if not (folder / own).is_dir():
            raise TalkerError(f"'{folder / own}' is missing; talker.yaml names it", "copy the folder again")
        found.append(own)
    for value in config.codec.options.values():
        path = Path(value) if isinstance(value, str) else Path()
        if not path.parts or path.is_absolute() or not (folder / path).exists():
            continue
        if ".." in path.parts:
            raise TalkerError(
                f"the codec's '{value}' lies outside '{folder}' and wouldn't be found from elsewhere",
                f"move it into '{folder}', and name it so in talker.yaml",
            )
        found.append(path)
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=_NOT_SHARED, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _reason(error: Exception) -> str:
    """Why, in one line: copying a folder collects (source, target, reason) of each file."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][-1])
    return str(error)


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise TalkerError(f"tensor '{name}' holds values that are no finite numbers", "train again from before that")
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
