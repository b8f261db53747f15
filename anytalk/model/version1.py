"""Reads version 1 of ``talker.yaml``, which holds only the options that a user gave.

No default of a first-party part has changed since version 1. A change that does change one has to fill in the old value
here.
"""

from __future__ import annotations

from typing import Any

from anytalk.errors import ConfigError

_OF_HEARING = {
    "beam": "beam",
    "candidates": "candidates",
    "hearings": "hearings",
    "fusion": "weight",
    "fusion_context": "context",
}
"""Maps options of ``ctc`` in version 1 to those of the hearing ``beam``; both parts have `candidates`."""
_MOVED = {"beam", "hearings", "fusion", "fusion_context", "fusion_lines", "fusion_margin"}


def from_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """Convert the data of version 1 to version 2. Mistakes in it are left for the validation to report.

    Raises:
        ConfigError: The talker has a speech decoder as wide as its backbone, a kind that no longer exists.
    """
    data = {**data, "format_version": 2}
    ears, speech, backbone, base, grid = (
        found if isinstance(found := data.get(name), dict) else {}
        for name in ("input_adapter", "output_adapter", "backbone", "base", "grid")
    )
    if speech.get("name") == "talker":
        raise ConfigError(
            "the speech decoder 'talker' of version 1 was as wide as its backbone, and no longer exists",
            "attach and train again, or read it with the code of `git checkout ea7c5dc`",
        )
    if "asr" in grid:  # it set how the backbone was asked for a transcript; the ears make transcripts now
        data["grid"] = {name: value for name, value in grid.items() if name != "asr"}
    typed = ears.get("options")
    if ears.get("name") == "ctc" and isinstance(typed, dict):
        data["input_adapter"] = {**ears, "options": {name: typed[name] for name in typed if name not in _MOVED}}
        # A beam of 1 was no search, so there is no hearing.
        if typed.get("beam", 1) != 1:
            found = {new: typed[old] for old, new in _OF_HEARING.items() if old in typed}
            data["hearing"] = {"name": "beam", "options": found}
    typed = backbone.get("options")
    folder = typed.get("model") if isinstance(typed, dict) and base else None
    if isinstance(typed, dict) and isinstance(folder, str) and folder.startswith("backbone-"):
        # Version 1 gave the folder of a trained backbone as its `model`, an option that plugins with weights of their
        # own don't have.
        own = {} if base.get("model") == backbone.get("name") else {"model": base.get("model")}
        rest = {name: value for name, value in typed.items() if name != "model"}
        data |= {"backbone": {**backbone, "options": own | rest}, "backbone_folder": folder}
    return data
