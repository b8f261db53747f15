"""Checkpoints inside a stage: what the engine needs to go on, and the state of the stage. There is a whole one or none.

The data order and the random numbers need no state: they are functions of seed and step. So a resumed run goes on
exactly as if it had not been interrupted.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from anytalk.errors import AnytalkError, TalkerError
from anytalk.files import partial_of, put_back, put_in_place, remove_leftovers
from anytalk.train.engine import Engine

_STATE = "state.json"


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, and what a killed save left beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    remove_leftovers(folder)


@dataclass(frozen=True)
class StageState:
    """State of a stage."""

    stage: dict[str, Any]  # its configuration as a mapping: a checkpoint of another configuration is refused
    # Rows by source and task, and a digest of each source's: a checkpoint of other data is refused.
    data: dict[str, int | str]
    step: int = 0  # optimizer steps done
    seconds: float = 0.0  # wall-clock time so far
    mean_loss: float | None = None  # running mean of the loss, by which an explosion is told
    skipped: int = 0  # steps left out so far
    log: list[dict[str, float]] = field(default_factory=list)  # logged metrics so far, one mapping per logged step


def save_checkpoint(folder: Path, state: StageState, engine: Engine) -> None:
    """Write a checkpoint beside the last one, then swap; called on every process.

    Raises:
        TalkerError: it can't be written; the last one is left as it was.
    """
    partial = partial_of(folder)
    try:
        if engine.is_main:
            shutil.rmtree(partial.parent, ignore_errors=True)
            partial.mkdir(parents=True)
        engine.wait()
        engine.save(partial)
        engine.wait()
        if engine.is_main:
            (partial / _STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
            put_in_place(partial, folder)
            partial.parent.rmdir()
        engine.wait()
    except (OSError, SafetensorError, RuntimeError) as error:
        if not isinstance(error, OSError | SafetensorError) and "write" not in str(error):
            raise  # torch's writer says RuntimeError for a full disk
        shutil.rmtree(partial.parent, ignore_errors=True)
        raise TalkerError(f"checkpoint '{folder}' can't be written: {error}", "is the disk full?") from None


def load_checkpoint(folder: Path, fresh: StageState, engine: Engine) -> StageState | None:
    """Restore a checkpoint into the engine; None when there is none. Called on every process.

    Args:
        fresh: What a run that begins now would say of its stage and data.

    Raises:
        TalkerError: one of another stage configuration, of other data, or a damaged one.
    """
    if engine.is_main:
        put_back(folder)
    engine.wait()
    if not folder.is_dir():
        return None
    anew = f"remove it to start the stage anew: {folder}"
    try:
        state = StageState(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TalkerError(f"checkpoint '{folder}' is damaged: {error}", anew) from None
    for what, now, then in (("settings", fresh.stage, state.stage), ("data", fresh.data, state.data)):
        changed = sorted(k for k in now.keys() | then.keys() if now.get(k) != then.get(k))
        if changed:
            raise TalkerError(
                f"checkpoint '{folder}' was made with other {what} ({', '.join(changed)})",
                f"resume with the same {what}, or add --restart to begin the stage anew",
            )
    try:
        engine.load(folder)
    except AnytalkError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise TalkerError(f"checkpoint '{folder}' is damaged: {error}", anew) from None
    return state
