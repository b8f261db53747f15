"""Packing: a talker folder fit for sharing, in half precision, with parts of others that were trained beside it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from anytalk.errors import TalkerError
from anytalk.model.card import model_card
from anytalk.model.config import CONFIG_FILE, TalkerConfig, WeightsFile, dump_config, read_config
from anytalk.model.talker import owns_backbone

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
_PARTS_FILE = "parts-0001.safetensors"


@dataclass(frozen=True)
class PackedPart:
    """A part in a packed folder.

    Attributes:
        name: Of the part.
        parameters: How many numbers it has.
        num_bytes: Their size.
        rounding: Largest change that rounding made, relative to the root mean square of its tensor.
    """

    name: str
    parameters: int
    num_bytes: int
    rounding: float


def pack(
    folder: Path, out: Path, *, precision: str = "fp16", take: Mapping[str, Path] | None = None, overwrite: bool = False
) -> list[PackedPart]:
    """Write a talker folder anew with what sharing needs and nothing else: no checkpoints, one file of weights.

    Args:
        folder: A talker folder of which a stage was trained.
        out: Where the new one goes.
        precision: ``"fp16"`` or ``"fp32"`` of the file; loading makes float32 of both.
        take: Parts that come from other talker folders, which were trained beside this one from the same start.
        overwrite: Replace what lies at `out`.

    Raises:
        TalkerError: no weights, a part that isn't there or has another form, a value that half precision can't hold, a
            backbone that was trained (it is no small file), or a place that can't be written; nothing half-written
            is left.
    """
    config = read_config(folder)
    tensors = _weights(folder, config)
    history = list(config.history)
    for part, other in (take or {}).items():
        theirs = read_config(other)
        _check_same(part, config, theirs, folder, other)
        found = {name: t for name, t in _weights(other, theirs).items() if name.startswith(f"{part}.")}
        mine = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith(f"{part}.")}
        if not found or {name: tuple(t.shape) for name, t in found.items()} != mine:
            raise TalkerError(
                f"part '{part}' of '{other}' isn't there or has another form than that of '{folder}'",
                "attach both with the same settings",
            )
        tensors |= found
        history += [record for record in theirs.history if record.name not in {r.name for r in history}]
    if out.exists() and not overwrite:
        raise TalkerError(f"'{out}' is there already", "name another folder, or give --overwrite")
    dtype = _DTYPES[precision]
    rounded = {name: _rounded(name, tensor, dtype) for name, tensor in tensors.items()}
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for source in (*(take or {}).values(), folder):
            if (source / "history").is_dir():
                shutil.copytree(
                    source / "history",
                    partial / "history",
                    ignore=shutil.ignore_patterns("*.checkpoint*", "tensorboard"),
                    dirs_exist_ok=True,
                )
        path = partial / _PARTS_FILE
        safetensors.torch.save_file(rounded, str(path))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        parts = sorted({name.partition(".")[0] for name in rounded})
        weights = WeightsFile(file=path.name, num_bytes=path.stat().st_size, sha256=digest, parts=parts)
        config = config.replace(weights=weights.model_dump(), history=[record.model_dump() for record in history])
        (partial / "README.md").write_text(model_card(config, out.name), encoding="utf-8")
        (partial / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
        if overwrite:
            shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    except (OSError, safetensors.SafetensorError) as error:
        raise TalkerError(f"'{out}' can't be written: {error}", "is it writable, and the disk not full?") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [_summary(name, tensors, rounded) for name in parts]


def _weights(folder: Path, config: TalkerConfig) -> dict[str, Tensor]:
    if config.weights is None:
        raise TalkerError(f"'{folder}' holds no weights: no stage was trained", f"type: anytalk train {folder} ...")
    if owns_backbone(config):
        raise TalkerError(
            f"the backbone of '{folder}' was trained, and packing shares only what is small", "copy the folder as it is"
        )
    path = folder / config.weights.file
    try:
        return safetensors.torch.load_file(str(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise TalkerError(f"'{path}' can't be read: {error}", "copy the folder again, or train again") from None


def _check_same(part: str, config: TalkerConfig, theirs: TalkerConfig, folder: Path, other: Path) -> None:
    """A part fits where base model, grid and the part itself are the same."""
    for field in ("base", "grid", part):
        mine = getattr(config, field, None)
        if mine != getattr(theirs, field, None):
            raise TalkerError(
                f"'{other}' has another '{field}' than '{folder}', so its {part} doesn't fit",
                "attach both with the same settings",
            )


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    found = tensor.to(dtype) if tensor.is_floating_point() else tensor
    if not bool(torch.isfinite(found).all()):
        raise TalkerError(
            f"tensor '{name}' holds values that {str(dtype).removeprefix('torch.')} can't hold",
            "pack with --precision fp32",
        )
    return found.contiguous()


def _summary(part: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> PackedPart:
    names = [name for name in after if name.startswith(f"{part}.")]
    worst = 0.0
    for name in names:
        rms = float(before[name].float().square().mean().sqrt())
        change = float((after[name].float() - before[name].float()).abs().max())
        worst = max(worst, change / rms if rms else 0.0)
    return PackedPart(
        part,
        sum(after[name].numel() for name in names),
        sum(after[name].numel() * after[name].element_size() for name in names),
        worst,
    )
