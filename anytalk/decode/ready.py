"""Make a talker ready for nothing but answering: the matrices of a decoding step in another arithmetic.

``exact`` leaves it as it is: text is bit-identical to the base model's. ``fused``, ``graphs`` and ``packed`` are
float32 (or what the weights are in) and equal to rounding; ``int8`` trades some exactness, which
``anytalk bench precision`` measures, for four times less memory to read in each step; see
:mod:`anytalk.kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anytalk.errors import ConfigError
from anytalk.kernels import ARITHMETICS, make_ready, peaks_of
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import BackboneStates, GridBatch, Peaks, ServedBackbone

_STEPS_PARTS = ("backbone", "output_adapter", "heads")
"""Parts that are made ready. Ears are left alone: they run once per question, on many frames at a time."""

CALIBRATION_TEXT = (
    "A speech model listens first. Then it answers, word by word, and says each word aloud while it thinks of the next "
    "one. What is the capital of France? The capital of France is Paris, and about 2.1 million people live there. Why "
    "is the sky blue? Because air scatters short waves of sunlight more than long ones. Could you please write that "
    "down? Of course: take two eggs, 250 g of flour, a little salt and half a litre of milk, stir well, and wait for "
    'twenty minutes. "I\'d rather not," she said, "it was raining." def area(r): return 3.14159 * r ** 2'
)
"""Read once before ``int8``, to see how large the inputs of each matrix get."""


def make_talker_ready(talker: Talker, arithmetic: str | None = None) -> Talker:
    """Change a talker for inference only; it can't be trained or saved afterwards.

    Args:
        talker: Changed in place.
        arithmetic: ``exact`` or one of :data:`anytalk.kernels.ARITHMETICS`; None: what its configuration says.

    Returns:
        The same talker.

    Raises:
        ConfigError: an unknown arithmetic, or one that these weights or this device don't allow.
    """
    chosen = arithmetic or talker.config.arithmetic
    if chosen == "exact":
        return talker
    if chosen not in ARITHMETICS:
        raise ConfigError(f"unknown arithmetic '{chosen}'", f"use exact, {', '.join(ARITHMETICS)}")
    peaks = calibrate(talker) if chosen == "int8" else {}
    for name, part in talker.model.parts().items():
        if name in _STEPS_PARTS:
            make_ready(part, chosen, peaks)
    talker.model.eval()  # parts that keep something of the old matrices forget it
    talker.arithmetic = chosen
    return talker


@torch.no_grad()
def calibrate(talker: Talker) -> Peaks:
    """How large the inputs of each matrix get while the talker reads :data:`CALIBRATION_TEXT`, half of it as an answer.

    Its codes are noise then: what it would say isn't known before it has said it.
    """
    model = talker.model
    layout = model.layout
    ids = np.array(model.backbone.tokenizer.encode(CALIBRATION_TEXT)[:256], dtype=np.int64)
    tokens = np.full((layout.num_streams, len(ids)), layout.pad_a, dtype=np.int64)
    tokens[layout.text_row] = ids
    half = len(ids) // 2
    noise = np.random.default_rng(0).integers(0, layout.codebook_size, (layout.num_audio_streams, len(ids) - half))
    tokens[: layout.text_row, half:] = noise
    with peaks_of(model) as peaks:
        _read(model, torch.from_numpy(tokens)[None].to(talker.device))
    return peaks


@dataclass
class _Answer:
    """A grid as one answer, all of it said aloud; see :class:`anytalk.plugins.contracts.Answers`."""

    tokens: Tensor
    loss_mask: Tensor
    answer_mask: Tensor
    speaker: Tensor
    reads: Tensor


def _read(model: TalkModel, tokens: Tensor) -> None:
    states: BackboneStates | None = None
    if not isinstance(model.backbone, ServedBackbone):
        states = model.backbone(model.embed(GridBatch(tokens)).backbone)
        model.text_logits(states.normed)
    said = torch.ones_like(tokens[:, 0], dtype=torch.bool)
    nobody = torch.zeros_like(tokens[:, 0, 0])
    answer = _Answer(tokens, torch.ones_like(tokens, dtype=torch.bool), said, nobody, nobody.bool())
    spoken = model.route.train(model, answer, states)
    wanted = spoken.tokens[0, : model.layout.text_row, 1:]
    model.route.logits(model, spoken.hidden[0, :-1], wanted)
