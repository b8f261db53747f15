"""Choose the device and the number of threads of a command."""

from __future__ import annotations

import os

from anytalk.errors import ConfigError


def choose_device(name: str) -> str:
    """Return the torch device for ``--device``; ``auto`` is ``cuda`` if torch can use it, else ``cpu``.

    If a launcher started several processes, ``cuda`` becomes the device of this process (``LOCAL_RANK``).

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
        # Only an allocation shows whether the device works.
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"device '{name}' can't be used: {reason}", "use --device cpu, or see `anytalk doctor`"
        ) from None
    return name


def set_threads(threads: int | None) -> None:
    """Set the number of torch's CPU threads; None keeps torch's default."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
