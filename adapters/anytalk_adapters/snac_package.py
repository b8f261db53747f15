"""Imports what is used of the package ``snac`` in one place, because that import warns."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # On import, snac compiles a function with TorchScript, which newer versions of torch deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from snac import SNAC
    from snac.layers import Decoder, DecoderBlock, NoiseBlock
    from snac.vq import ResidualVectorQuantize

__all__ = ["SNAC", "Decoder", "DecoderBlock", "NoiseBlock", "ResidualVectorQuantize"]
