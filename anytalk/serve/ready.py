"""In which arithmetic a server answers, where nobody says."""

from __future__ import annotations

import torch

from anytalk.model.talker import Talker
from anytalk.plugins.contracts import MakesReady

AUTO = "auto"


def arithmetic_for_many(talker: Talker, asked: str = AUTO) -> str:
    """Return what a server's talker is made ready with; see :func:`anytalk.decode.ready.make_talker_ready`.

    ``exact`` rounds differently in a batch of eight than alone, so that a server is exact to rounding whatever it does;
    ``packed`` is no less so, and makes a step of eight rows hardly dearer than one of one row.

    Args:
        asked: ``auto``: what the talker says; but for ``exact``, which every talker says that wasn't told otherwise,
            ``packed`` on a CPU where the backbone knows how.
    """
    if asked != AUTO:
        return asked
    if talker.config.arithmetic != "exact":
        return talker.config.arithmetic
    can = isinstance(talker.model.backbone, MakesReady) and talker.model.device.type == "cpu" and torch._C._has_mkldnn
    return "packed" if can else "exact"
