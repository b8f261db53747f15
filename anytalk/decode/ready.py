"""Make a talker ready for nothing but answering: the matrices of a decoding step in another arithmetic.

``exact`` leaves it as it is: text is bit-identical to the base model's. ``fused``, ``graphs`` and ``packed`` are
float32 (or what the weights are in) and equal to rounding; ``int8`` trades some exactness, which
``anytalk bench precision`` measures, for four times less memory to read in each step; see
:mod:`anytalk.kernels`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from anytalk.errors import AnytalkError, ConfigError
from anytalk.kernels import ARITHMETICS, MadeBefore, make_ready, peaks_of
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Arithmetic, BackboneStates, GridBatch, Peaks, ServedBackbone
from anytalk.plugins.disk_cache import digest_of, kept
from anytalk.plugins.fingerprint import fingerprint
from anytalk.plugins.sources import resolve

_STEPS_PARTS = ("backbone", "output_adapter", "heads")
"""Parts that are made ready. Ears are left alone: they run once per question, on many frames at a time."""

_MATRICES = "matrices.safetensors"

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
    if chosen == "int8":
        _make_int8(talker)
    else:
        _make_parts_ready(talker, chosen, {})
    talker.model.eval()  # parts that keep something of the old matrices forget it
    talker.arithmetic = chosen
    return talker


def _make_parts_ready(talker: Talker, arithmetic: Arithmetic, peaks: Peaks) -> None:
    for name, part in talker.model.parts().items():
        if name in _STEPS_PARTS:
            make_ready(part, arithmetic, peaks)


def _make_int8(talker: Talker) -> None:
    """In 8 bits, by way of a file that is made from these weights once, and then mapped."""
    made: MadeBefore | None = None
    names = {module: name for name, module in talker.model.named_modules()}

    def make(place: Path | None) -> None:
        nonlocal made
        peaks, made = calibrate(talker), MadeBefore()
        with made.used():
            _make_parts_ready(talker, "int8", peaks)
        if place is not None:
            place.mkdir()
            seen = {f"peaks.{names[module]}": seen for module, seen in peaks.items()}
            safetensors.torch.save_file({**made.tensors, **seen}, place / _MATRICES)

    name = _name_of(talker)
    base = talker.config.base
    folder = None if name is None else kept(name, base.model if base else talker.config.backbone.name, make)
    if made is not None:
        return
    if folder is None:
        make(None)
        return
    tensors = safetensors.torch.load_file(folder / _MATRICES)
    peaks = {module: tensors[f"peaks.{n}"] for module, n in names.items() if f"peaks.{n}" in tensors}
    with MadeBefore(tensors).used():
        _make_parts_ready(talker, "int8", peaks)


def _name_of(talker: Talker) -> str | None:
    """Says all that matrices in 8 bits depend on; None where that can't be told without reading all weights."""
    config = talker.config
    try:
        options = talker.registry.options("backbone", config.backbone)
        specs = [str(getattr(options, name)) for name in options.weight_sources if config.backbone_folder is None]
        sources = [resolve(spec, talker.folder) for spec in specs]
    except AnytalkError:
        return None
    roots = [path for source in sources for path in source.paths]
    if config.backbone_folder is not None:
        roots = [(talker.folder or Path()) / config.backbone_folder]
    elif any(source.is_hub for source in sources):
        return None
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*")))]
    facts = (
        digest_of([file for file in files if file.is_file()]) if files else "",
        "" if config.weights is None else config.weights.sha256,
        # A talker may have been trained since it was loaded.
        fingerprint(talker.model, without=("encoder.", "ears.")),
        config.grid.model_dump_json(),
        CALIBRATION_TEXT,
        torch.__version__,
    )
    # The digit says how it is made and written down.
    return f"int8-1-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"


@torch.no_grad()
def calibrate(talker: Talker) -> Peaks:
    """Measure the largest inputs of each matrix while the talker reads :data:`CALIBRATION_TEXT`, half as an answer.

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
