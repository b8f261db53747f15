"""Reads how version 1 of ``talker.yaml`` chose between what may have been heard: options of ``ctc``, now `hearing:`."""

from __future__ import annotations

from typing import Any

_OPTIONS = {
    "beam": ("beam", 1),
    "hearings": ("hearings", 1),
    "fusion": ("weight", 0.0),
    "fusion_context": ("context", ""),
}
"""Option of ``ctc`` in version 1 -> the option of the hearing ``beam``, and its default in version 1."""
_FIXED = ("fusion_lines", "fusion_margin")
"""Options that no talker set; their values of then, 8 and 4, are the hearing's own now."""


def with_hearing(data: dict[str, Any]) -> dict[str, Any]:
    """Return version 1 data with the search of ``ctc`` under `hearing:`, and without ``grid.asr``.

    ``grid.asr: examples`` changed only how a transcript was asked of the backbone, which ears that know words aren't.
    """
    data, grid, adapter = dict(data), data.get("grid"), data.get("input_adapter")
    if isinstance(grid, dict):
        data["grid"] = {name: value for name, value in grid.items() if name != "asr"}
    options = adapter.get("options") if isinstance(adapter, dict) and adapter.get("name") == "ctc" else None
    if not isinstance(adapter, dict) or not isinstance(options, dict):
        return data
    rest = {name: value for name, value in options.items() if name not in (*_OPTIONS, *_FIXED)}
    data["input_adapter"] = {**adapter, "options": rest}
    hearing = {new: options.get(old, default) for old, (new, default) in _OPTIONS.items()}
    if hearing["beam"] != 1:
        hearing["candidates"] = options.get("candidates", 16)
        data["hearing"] = {"name": "beam", "options": hearing}
    return data
