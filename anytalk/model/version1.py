"""Reads version 1 of ``talker.yaml``, which held only the options that were typed.

No default of a first-party part has moved since. Whoever moves one puts the old value into version 1's data here.
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
"""Option of ``ctc`` in version 1 -> the option of the hearing ``beam``; `candidates` belongs to both."""
_MOVED = {"beam", "hearings", "fusion", "fusion_context", "fusion_lines", "fusion_margin"}


def from_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """Return what version 2 says of a version 1 talker. Mistakes in `data` stay in it, for validation to name.

    Raises:
        ConfigError: a talker whose speech decoder was as wide as its backbone.
    """
    data = {**data, "format_version": 2}
    ears, speech, backbone, base, grid = (
        found if isinstance(found := data.get(name), dict) else {}
        for name in ("input_adapter", "output_adapter", "backbone", "base", "grid")
    )
    if speech.get("name") == "talker":
        raise ConfigError(
            "the speech decoder 'talker' of version 1 was as wide as its backbone, and is not there any more",
            "attach and train anew, or read it with the code of `git checkout ea7c5dc`",
        )
    if "asr" in grid:  # it changed only how a transcript was asked of the backbone
        data["grid"] = {name: value for name, value in grid.items() if name != "asr"}
    typed = ears.get("options")
    if ears.get("name") == "ctc" and isinstance(typed, dict):
        data["input_adapter"] = {**ears, "options": {name: typed[name] for name in typed if name not in _MOVED}}
        if typed.get("beam", 1) != 1:
            found = {new: typed[old] for old, new in _OF_HEARING.items() if old in typed}
            data["hearing"] = {"name": "beam", "options": found}
    typed = backbone.get("options")
    folder = typed.get("model") if isinstance(typed, dict) and base else None
    if isinstance(typed, dict) and isinstance(folder, str) and folder.startswith("backbone-"):
        # The folder of a trained backbone stood in the place of the model's name, which a plugin that makes its own
        # weights has not.
        own = {} if base.get("model") == backbone.get("name") else {"model": base.get("model")}
        rest = {name: value for name, value in typed.items() if name != "model"}
        data |= {"backbone": {**backbone, "options": own | rest}, "backbone_folder": folder}
    return data
