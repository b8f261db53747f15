"""Save and load checkpoints inside a stage: the engine's state and the stage's own.

The order of the data and the random numbers are functions of seed and step, so they need no state, and a resumed run
continues exactly as if it hadn't been interrupted.
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
    """Remove a checkpoint and what an interrupted save may have left."""
    shutil.rmtree(folder, ignore_errors=True)
    remove_leftovers(folder)


@dataclass(frozen=True)
class StageState:
    """Holds the state of a stage besides the engine's."""

    stage: dict[str, Any]  # its configuration; a checkpoint of another one is refused
    # Rows by source and task, and a digest of each source's rows; a checkpoint of other data is refused.
    data: dict[str, int | str]
    step: int = 0  # optimizer steps done
    seconds: float = 0.0  # wall-clock time so far
    mean_loss: float | None = None  # running mean of the loss, to detect explosions
    skipped: int = 0  # steps skipped so far
    log: list[dict[str, float]] = field(default_factory=list)  # metrics so far, one mapping per logged step


def save_checkpoint(folder: Path, state: StageState, engine: Engine) -> None:
    """Write a checkpoint to a temporary folder, then replace the last one. Every process must call this.

    Raises:
        TalkerError: it can't be written; the last checkpoint stays as it was.
    """
    partial = partial_of(folder)
    try:
        if engine.is_main:
            shutil.rmtree(partial.parent, ignore_errors=True)
            partial.mkdir(parents=True)
        engine.wait()  # until the folder exists
        engine.save(partial)
        engine.wait()  # until all processes have written
        if engine.is_main:
            (partial / _STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
            put_in_place(partial, folder)
            partial.parent.rmdir()
        engine.wait()
    except (OSError, SafetensorError, RuntimeError) as error:
        if not isinstance(error, OSError | SafetensorError) and "write" not in str(error):
            raise  # torch's writer raises RuntimeError for a full disk
        shutil.rmtree(partial.parent, ignore_errors=True)
        raise TalkerError(f"checkpoint '{folder}' can't be written: {error}", "is the disk full?") from None


def load_checkpoint(folder: Path, fresh: StageState, engine: Engine) -> StageState | None:
    """Load a checkpoint into the engine; None if there is none. Every process must call this.

    Args:
        fresh: The state of a run that starts now, to compare configuration and data.

    Raises:
        TalkerError: the checkpoint is damaged, or belongs to another configuration or other data.
    """
    if engine.is_main:
        # A save may have been killed between removing the last checkpoint and renaming the new one.
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
