"""Reads a voice's tensors from a model, writes them to a folder, and loads them into another model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import anytalk
from anytalk.files import written_whole
from anytalk.model.card import voice_card
from anytalk.model.config import WeightsFile, dump_config, parse
from anytalk.model.own_files import copy_files, writing
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import load_part, read_parts, write_parts
from anytalk.model.voice import VOICE_FILE, VOICE_PARTS, VOICE_WEIGHTS, Voice, VoiceFolder

_OF_BACKBONE = ("special_tokens.text", "special_tokens.text_head")
"""Tensors of a voice's parts that are as wide as the backbone, so that they stay with it."""


def voice_tensors(model: TalkModel) -> dict[str, Tensor]:
    """Return a model's tensors that belong to its voice, named ``PART.TENSOR``, on the CPU and contiguous."""
    found = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, part in model.parts().items()
        if name in VOICE_PARTS
        for key, tensor in part.state_dict().items()
    }
    return {name: tensor for name, tensor in found.items() if name not in _OF_BACKBONE}


def write_voice(
    out: Path, settings: dict[str, Any], tensors: dict[str, Tensor], files: Mapping[Path, Path] | None = None
) -> Voice:
    """Write a voice folder with its card, as a whole; it replaces what is at `out`.

    Args:
        out: Path of the folder.
        settings: The fields of ``voice.yaml`` without `weights`.
        tensors: Named as by :func:`voice_tensors`: those of ``output_adapter``, ``heads`` (none if tied),
            ``audio_embeddings``, ``special_tokens.audio``, and with several speakers ``speaker``.
        files: Other files to copy into the folder: where each goes in it, and where it is now.

    Raises:
        ConfigError: The settings aren't those of a voice.
        TalkerError: The folder can't be written; nothing half-written is left.
    """
    parts = sorted(name for name in VOICE_PARTS if name != "speaker" or settings.get("speakers"))
    # Validated with an empty weights entry, so that wrong settings are reported before anything is written.
    draft = WeightsFile(file=VOICE_WEIGHTS, num_bytes=0, sha256="", parts=parts)
    known = {"library_version": anytalk.__version__, **settings, "weights": draft.model_dump()}
    voice = parse(Voice, known, "the settings of the voice")
    with writing(out), written_whole(out) as partial:
        partial.mkdir(parents=True)
        copy_files(files or {}, partial)
        voice = voice.model_copy(update={"weights": write_parts(partial / VOICE_WEIGHTS, tensors, parts)})
        (partial / "README.md").write_text(voice_card(voice), encoding="utf-8")
        (partial / VOICE_FILE).write_text(dump_config(voice), encoding="utf-8")
    return voice


def load_voice(model: TalkModel, found: VoiceFolder) -> None:
    """Load the voice that a model's configuration names into the model.

    Raises:
        TalkerError: A file is missing or damaged, or its tensors don't fit.
    """
    weights = found.voice.weights
    tensors = read_parts(found.folder, weights, VOICE_FILE)
    own = {f"special_tokens.{key}": tensor for key, tensor in model.special_tokens.state_dict().items()}
    # The voice has no tensors as wide as a backbone; the model's own stay.
    tensors |= {name: own[name] for name in _OF_BACKBONE if name in own}
    for name, part in model.parts().items():
        if name in VOICE_PARTS:
            load_part(part, name, tensors, found.folder / weights.file, VOICE_FILE)
