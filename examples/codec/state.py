"""Checkpoints of a codec's training: everything that the next step depends on. There is a whole one or none."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from anytalk.errors import TalkerError
from anytalk.files import put_back, remove_leftovers, written_whole

_PROGRESS = "state.json"


@dataclass
class Progress:
    """State of a training.

    Attributes:
        settings: What it was begun with; a checkpoint of other settings is refused.
        step: Steps done.
        seconds: Time spent in steps so far.
        sums: Losses summed since the last line of the log.
        summed: Steps in those sums.
        restarted: Codes restarted since then.
        log: Lines of the log so far.
    """

    settings: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    restarted: int = 0
    log: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Learner:
    """What learns.

    Attributes:
        modules: Networks by name.
        optimizers: Theirs, by the same name.
        tensors: Counts that live beside them; written in place.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    tensors: dict[str, Tensor]


def save_state(folder: Path, progress: Progress, learner: Learner) -> None:
    """Write a checkpoint beside the last one, then swap.

    Raises:
        TalkerError: it can't be written; the last one is left as it was.
    """
    try:
        with written_whole(folder) as partial:
            partial.mkdir()
            for name, module in learner.modules.items():
                state = {key: value.contiguous() for key, value in module.state_dict().items()}
                safetensors.torch.save_file(state, partial / f"{name}.safetensors")
            for name, optimizer in learner.optimizers.items():
                torch.save(optimizer.state_dict(), partial / f"{name}.optimizer.pt")
            safetensors.torch.save_file(learner.tensors, partial / "counts.safetensors")
            (partial / _PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        if isinstance(error, RuntimeError) and "write" not in str(error):
            raise  # torch's writer says RuntimeError for a full disk
        raise TalkerError(f"checkpoint '{folder}' can't be written: {error}", "is the disk full?") from None


def load_state(folder: Path, settings: dict[str, Any], learner: Learner) -> Progress | None:
    """Restore a checkpoint into what learns; None when there is none.

    Raises:
        TalkerError: a damaged one, or one of other settings.
    """
    put_back(folder)
    if not folder.is_dir():
        return None
    anew = f"remove it to begin anew, or give another --out: {folder}"
    try:
        progress = Progress(**json.loads((folder / _PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TalkerError(f"checkpoint '{folder}' is damaged: {error}", anew) from None
    changed = sorted(
        name for name in settings.keys() | progress.settings.keys() if settings.get(name) != progress.settings.get(name)
    )
    if changed:
        told = ", ".join(f"{name} was {progress.settings.get(name)}, is {settings.get(name)}" for name in changed)
        raise TalkerError(f"checkpoint '{folder}' was made otherwise: {told}", f"give the same; or {anew}")
    try:
        for name, module in learner.modules.items():
            module.load_state_dict(safetensors.torch.load_file(folder / f"{name}.safetensors"))
        for name, optimizer in learner.optimizers.items():
            optimizer.load_state_dict(
                torch.load(folder / f"{name}.optimizer.pt", map_location="cpu", weights_only=True)
            )
        counts = safetensors.torch.load_file(folder / "counts.safetensors")
        for name, tensor in learner.tensors.items():
            tensor.copy_(counts[name])
    except (
        OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError,
    ) as error:  # fmt: skip
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TalkerError(f"checkpoint '{folder}' is damaged: {reason}", anew) from None
    return progress


def remove_state(folder: Path) -> None:
    """Remove a checkpoint, and what a killed save left beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    remove_leftovers(folder)
