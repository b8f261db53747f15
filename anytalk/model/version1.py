"""Reads version 1 of ``talker.yaml``, which held only the options that somebody had typed.

An option that it doesn't name has the value in :data:`DEFAULTS`, whatever the part's default is today. Who moves an
option elsewhere maps it here.
"""

from __future__ import annotations

from typing import Any

import yaml

DEFAULTS: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load("""
backbone:
  tiny: {width: 32, num_blocks: 2, num_heads: 2, seed: 0, chat: true}
encoder:
  whisper: {model: small, pad_to_30s: false}
  tiny: {width: 16, seed: 0}
input_adapter:
  mlp: {num_layers: 2, hidden_width: null, output_norm: false}
  swiglu: {hidden_width: null, output_norm: false}
  stack: {factor: 5, hidden_width: null, output_norm: true}
  ctc: {width: 384, num_blocks: 3, factor: 2, candidates: 16, temperature: 1.0, negatives: 2048, dropout: 0.1,
        frame_dropout: 0.0, spelling_width: 96}
output_adapter:
  blocks: {num_blocks: 6, init: fresh}
  talker: {width: 384, num_layers: 4, hidden_width: null, letter_width: 256, num_letter_layers: 2, max_letters: 24,
           steps_per_letter: 1.0, steps_per_digit: 4.0, timing: learned, state_dropout: 0.1, audio_dropout: 0.0,
           table_width: backbone, reads_states: true}
heads:
  shared: {tied: true}
codec:
  spectral: {model: "package:anytalk_adapters/assets/spectral_16khz.safetensors"}
  snac: {model: hubertsiuzdak/snac_24khz, noise: seeded, seed: 0, stream_context_frames: null}
  tiny: {num_streams: 3, codebook_size: 16, sample_rate_hz: 8000, samples_per_frame: 160, seed: 0}
""")
"""Defaults of the first-party parts while version 1 was written, by field of ``talker.yaml`` and plugin name."""

_OF_HEARING = {
    "beam": ("beam", 1),
    "hearings": ("hearings", 1),
    "fusion": ("weight", 0.0),
    "fusion_context": ("context", ""),
}
"""Option of ``ctc`` in version 1 -> the option of the hearing ``beam``, and its default in version 1."""
_NEVER_SET = ("fusion_lines", "fusion_margin")
"""Options that no talker set; their values of then, 8 and 4, are the hearing's own now."""


def from_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """Return what version 2 says of a version 1 talker. Mistakes in `data` stay in it, for validation to name."""
    data = with_hearing({**data, "format_version": 2})
    for field, of_plugins in DEFAULTS.items():
        part = data.get(field)
        options = part.get("options", {}) if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(options, dict):
            data[field] = {**part, "options": {**of_plugins.get(str(part.get("name")), {}), **options}}
    return _with_backbone_folder(data)


def _with_backbone_folder(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 named the folder of a trained backbone in the option ``model``, over the model's own name."""
    backbone, base = data.get("backbone"), data.get("base")
    if not isinstance(backbone, dict) or not isinstance(base, dict) or not isinstance(backbone.get("options"), dict):
        return data
    options = dict(backbone["options"])
    folder = options.pop("model", None)
    if not isinstance(folder, str) or not folder.startswith("backbone-"):
        return data
    # A plugin that makes its own weights was attached by its own name.
    own = {} if base.get("model") == backbone.get("name") else {"model": base.get("model")}
    return {**data, "backbone": {**backbone, "options": {**own, **options}}, "backbone_folder": folder}


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
    rest = {name: value for name, value in options.items() if name not in (*_OF_HEARING, *_NEVER_SET)}
    data["input_adapter"] = {**adapter, "options": rest}
    hearing = {new: options.get(old, default) for old, (new, default) in _OF_HEARING.items()}
    if hearing["beam"] != 1:
        hearing["candidates"] = options.get("candidates", 16)
        data["hearing"] = {"name": "beam", "options": hearing}
    return data
