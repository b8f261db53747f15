"""A voice's tensors: read from a model, given to another."""

from __future__ import annotations

from torch import Tensor

from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import load_part, read_parts
from anytalk.model.voice import VOICE_FILE, VOICE_PARTS, VoiceFolder

_OWN = ("special_tokens.text", "special_tokens.text_head")
"""Tensors of a voice's parts that are as wide as the backbone, and stay with it."""


def voice_tensors(model: TalkModel) -> dict[str, Tensor]:
    """The tensors of a model that a voice holds, named ``PART.TENSOR``, on the CPU and contiguous."""
    parts = model.parts()
    found = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name in VOICE_PARTS
        if name in parts
        for key, tensor in parts[name].state_dict().items()
    }
    return {name: tensor for name, tensor in found.items() if name not in _OWN}


def load_voice(model: TalkModel, found: VoiceFolder) -> None:
    """Give a model the voice that its configuration names.

    Raises:
        TalkerError: a file that is missing, damaged or of another form.
    """
    weights, parts = found.voice.weights, model.parts()
    tensors = read_parts(found.folder, weights, VOICE_FILE)
    own = {f"special_tokens.{key}": tensor for key, tensor in model.special_tokens.state_dict().items()}
    tensors |= {name: tensor for name, tensor in own.items() if name in _OWN}
    for name in VOICE_PARTS:
        if name in parts:
            load_part(parts[name], name, tensors, found.folder / weights.file, VOICE_FILE)
