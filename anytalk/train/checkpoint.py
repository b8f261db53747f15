"""Checkpoints inside a stage: parameters that move, the optimizer's state, the random state, the step. Never pickled.

The data order needs no state: it is a function of seed and step (``data.batches``). So a resumed run goes on exactly as
if it had not been interrupted.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anytalk.errors import TalkerError

_TENSORS, _STATE = "state.safetensors", "state.json"


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, and what a killed save left beside it."""
    for path in (folder, _old(folder), _partial(folder)):
        shutil.rmtree(path, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


@dataclass(frozen=True)
class Progress:
    """Where a stage stands.

    Attributes:
        stage: Its configuration as a mapping: a checkpoint of another configuration is refused.
        step: Optimizer steps done.
        seconds: Wall-clock time so far.
        log: Logged metrics so far, one mapping per logged step.
    """

    stage: dict[str, Any]
    step: int
    seconds: float
    log: list[dict[str, float]]


def save_checkpoint(
    folder: Path, progress: Progress, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint beside the last one, then swap.

    Raises:
        TalkerError: it can't be written; the last one is left as it was.
    """
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    tensors: dict[str, Tensor] = {f"param.{n}": p.detach().cpu().contiguous() for n, p in parameters.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optim.{index}.{key}": torch.as_tensor(value).cpu().contiguous() for key, value in state.items()}
    tensors["rng"] = torch.get_rng_state()
    try:
        partial.mkdir(parents=True)
        safetensors.torch.save_file(tensors, str(partial / _TENSORS))
        (partial / _STATE).write_text(json.dumps(progress.__dict__), encoding="utf-8")
        old = _old(folder)
        shutil.rmtree(old, ignore_errors=True)
        if folder.is_dir():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise TalkerError(f"checkpoint '{folder}' can't be written: {error}", "is the disk full?") from None


def load_checkpoint(
    folder: Path, stage: dict[str, Any], parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Progress | None:
    """Restore a checkpoint into parameters and optimizer; None when there is none.

    Raises:
        TalkerError: one of another stage configuration, or a damaged one.
    """
    old = _old(folder)
    if not folder.is_dir() and old.is_dir():  # killed between the two renames of a save
        old.rename(folder)
    if not folder.is_dir():
        return None
    try:
        progress = Progress(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
        tensors = safetensors.torch.load_file(str(folder / _TENSORS))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise TalkerError(
            f"checkpoint '{folder}' is damaged: {error}", f"remove it to start the stage anew: {folder}"
        ) from None
    if progress.stage != stage:
        changed = sorted(k for k in stage.keys() | progress.stage.keys() if stage.get(k) != progress.stage.get(k))
        raise TalkerError(
            f"checkpoint '{folder}' was made with other settings ({', '.join(changed)})",
            "resume with the same settings, or add --restart to begin the stage anew",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"param.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optim."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng"])
    return progress
