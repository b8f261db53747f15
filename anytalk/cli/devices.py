"""Where a command computes."""

from __future__ import annotations

from anytalk.errors import ConfigError


def choose_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where torch can use one, else ``cpu``; anything else must be usable.

    Raises:
        ConfigError: a device that torch doesn't know or can't use.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
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
