"""Spells the names of licences as SPDX does. Imports no torch."""

from __future__ import annotations

_SPDX = {name.lower(): name for name in ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-NC-4.0", "OpenRAIL")}


def spdx(name: str) -> str:
    """Return the SPDX spelling of a model card's licence: ``apache-2.0`` -> ``Apache-2.0``; unknown names stay."""
    return _SPDX.get(name.lower(), name)
