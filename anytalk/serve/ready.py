"""Choose the arithmetic of a server."""

from __future__ import annotations

import torch

from anytalk.model.talker import Talker
from anytalk.plugins.contracts import MakesReady

AUTO = "auto"


def arithmetic_for_many(talker: Talker, asked: str = AUTO) -> str:
    """Return the arithmetic for a server's talker; see :func:`anytalk.decode.ready.make_talker_ready`.

    With ``exact``, a batch of eight rounds differently than a single row, so a server is never more than exact up to
    rounding. ``packed`` is as exact, and a step of eight rows takes hardly longer than a step of one.

    Args:
        asked: An arithmetic, or ``auto`` for the talker's own. The default of talkers, ``exact``, then becomes
            ``packed`` on a CPU if the backbone supports it.
    """
    if asked != AUTO:
        return asked
    if talker.config.arithmetic != "exact":
        return talker.config.arithmetic
    can = isinstance(talker.model.backbone, MakesReady) and talker.model.device.type == "cpu" and torch._C._has_mkldnn
    return "packed" if can else "exact"
