"""What is used of the package ``snac``, imported in one place because its import warns."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # snac scripts one function when imported; newer torch calls that deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from snac import SNAC
    from snac.layers import Decoder, DecoderBlock, NoiseBlock
    from snac.vq import ResidualVectorQuantize

__all__ = ["SNAC", "Decoder", "DecoderBlock", "NoiseBlock", "ResidualVectorQuantize"]
