"""Prepares Whisper's layers for inference in 8 bits."""

from __future__ import annotations

from torch import nn
from whisper.model import Linear

from anytalk.kernels import make_matrix

__all__ = ["make_int8"]


def make_int8(module: nn.Module) -> None:
    """Replace Whisper's linear layers inside a module by matrices of 8 bits.

    Inputs and weights aren't balanced against each other, as a backbone's are: transcripts hardly change without that
    (docs/performance.md), and factors that were found on a few seconds of speech spoilt them.

    Raises:
        ConfigError: The weights aren't float32 on the CPU, or this torch has no product of 8 bits.
    """
    for name, child in module.named_children():
        if isinstance(child, Linear):
            setattr(module, name, make_matrix("int8", child.weight, child.bias))
        else:
            make_int8(child)
