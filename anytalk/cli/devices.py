"""Where a command computes."""

from __future__ import annotations

import os

from anytalk.errors import ConfigError


def choose_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where torch can use one, else ``cpu``; anything else must be usable.

    Where a launcher started several processes, ``cuda`` is the device of this one (``LOCAL_RANK``).

    Raises:
        ConfigError: a device that torch doesn't know or can't use.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        torch.cuda.set_device(name)
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"device '{name}' can't be used: {reason}", "use --device cpu, or see `anytalk doctor`"
        ) from None
    return name


def set_threads(threads: int | None) -> None:
    """Limit torch's CPU threads; None leaves its own choice."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
