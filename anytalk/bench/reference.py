"""Builds the stack that speed figures refer to: the paper's, in its true shapes, with random weights.

It has Qwen2-0.5B, Whisper small, a two-layer input adapter, six output blocks, parallel heads, and SNAC at 24 kHz with
eight streams. Speed doesn't depend on the weights' values. Answers are noise: they never end, and don't sound like
speech.
"""

from __future__ import annotations

from typing import Any

from anytalk.model.assemble import assemble
from anytalk.model.config import TalkerConfig
from anytalk.model.talker import Talker
from anytalk.plugins.registry import default_registry

SIZES = {
    "reference": {"backbone": "0.5b", "encoder": "small", "codec": "24khz", "blocks": 6, "codes": 4096, "width": 768},
    "tiny": {"backbone": "tiny", "encoder": "toy", "codec": "toy", "blocks": 1, "codes": 64, "width": 64},
}
"""Sizes by name. ``tiny`` is for tests: it has the same kinds of parts, but its figures mean nothing."""


def reference_config(size: str = "reference") -> TalkerConfig:
    """Return the configuration of the reference stack; `size` is one of :data:`SIZES`."""
    made: dict[str, Any] = SIZES[size]
    return TalkerConfig.model_validate(
        {
            "backbone": {"name": "qwen2", "options": {"model": f"random:{made['backbone']}"}},
            "encoder": {"name": "whisper", "options": {"model": f"random:{made['encoder']}"}},
            "encoder_width": made["width"],
            "input_adapter": {"name": "mlp"},
            "output_adapter": {"name": "blocks", "options": {"num_blocks": made["blocks"]}},
            "heads": {"name": "parallel"},
            "codec": {"name": "snac", "options": {"model": f"random:{made['codec']}"}},
            "grid": {"codec_streams": 7, "codebook_size": made["codes"], "prompt": "raw"},
        }
    )


def reference_talker(size: str = "reference") -> Talker:
    """Build the reference stack in memory."""
    config, registry = reference_config(size), default_registry()
    return Talker(config, assemble(config, registry), registry)
