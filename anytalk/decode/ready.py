"""Prepares a talker for inference: the matrices of a decoding step are multiplied in another arithmetic.

``exact`` changes nothing: text is bit-identical to the base model's. ``fused``, ``graphs`` and ``packed`` compute in
the weights' dtype and equal ``exact`` up to rounding. ``int8`` reads four times less memory per step and is less exact;
``int4`` reads half of that. ``anytalk bench precision`` measures how exact they are. See :mod:`anytalk.kernels`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from anytalk.errors import AnytalkError, ConfigError
from anytalk.kernels import ARITHMETICS, MadeBefore, make_ready, peaks_of
from anytalk.model.talk_model import TalkModel
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Arithmetic, BackboneStates, GridBatch, MakesReady, Peaks, ServedBackbone
from anytalk.plugins.disk_cache import digest_of, kept
from anytalk.plugins.fingerprint import fingerprint
from anytalk.plugins.sources import resolve

_STEPS_PARTS = ("backbone", "output_adapter", "heads")
"""The parts that run in every step."""

_HEARING_PARTS = ("encoder", "ears")
"""The parts that run once per question, on many frames at a time. They change only for ``int8`` and ``int4``, to 8
bits, and only if they implement :class:`~anytalk.plugins.contracts.MakesReady`: nobody has measured how many words 8
bits cost the others."""

_MATRICES = "matrices.safetensors"

CALIBRATION_TEXT = (
    "A speech model listens first. Then it answers, word by word, and says each word aloud while it thinks of the next "
    "one. What is the capital of France? The capital of France is Paris, and about 2.1 million people live there. Why "
    "is the sky blue? Because air scatters short waves of sunlight more than long ones. Could you please write that "
    "down? Of course: take two eggs, 250 g of flour, a little salt and half a litre of milk, stir well, and wait for "
    'twenty minutes. "I\'d rather not," she said, "it was raining." def area(r): return 3.14159 * r ** 2'
)
"""Text that is read once for ``int8``, to find the largest inputs of each matrix."""


def make_talker_ready(talker: Talker, arithmetic: str | None = None) -> Talker:
    """Prepare a talker for inference; it can't be trained or saved afterwards.

    Args:
        talker: The talker, changed in place.
        arithmetic: ``exact`` or one of :data:`anytalk.kernels.ARITHMETICS`; None takes the talker's configuration.

    Returns:
        The same talker.

    Raises:
        ConfigError: The arithmetic is unknown, or these weights or this device don't allow it.
    """
    chosen = arithmetic or talker.config.arithmetic
    if chosen == "exact":
        return talker
    if chosen not in ARITHMETICS:
        raise ConfigError(f"unknown arithmetic '{chosen}'", f"use exact, {', '.join(ARITHMETICS)}")
    if chosen in ("int8", "int4"):
        _make_small(talker, chosen)
    else:
        _make_parts_ready(talker, chosen, {})
    talker.model.eval()  # parts drop what they have kept of the old matrices
    talker.arithmetic = chosen
    return talker


def _make_parts_ready(talker: Talker, arithmetic: Arithmetic, peaks: Peaks) -> None:
    for name, part in talker.model.parts().items():
        if name in _STEPS_PARTS:
            make_ready(part, arithmetic, peaks)


def _make_small(talker: Talker, arithmetic: Arithmetic) -> None:
    """Convert the matrices to 8 or 4 bits, or take them from the disk cache."""
    config = talker.config
    made_from = config.base.model if config.base else config.backbone.name
    _convert(
        talker,
        _name_of(talker, arithmetic),
        made_from,
        measure=lambda: calibrate(talker),
        build=lambda peaks: _make_parts_ready(talker, arithmetic, peaks),
    )
    for name in _HEARING_PARTS:
        part: object = getattr(talker.model, name)
        if isinstance(part, nn.Module) and isinstance(part, MakesReady):
            # A typed question loads no ears, so their matrices have a folder of their own.
            _convert(
                talker,
                f"int8-{name}-1-{fingerprint(part)}",
                f"{name} of {made_from}",
                measure=dict,
                build=partial(part.make_ready, "int8"),
            )


def _convert(
    talker: Talker, entry: str | None, made_from: str, measure: Callable[[], Peaks], build: Callable[[Peaks], None]
) -> None:
    """Build quantised matrices once, keep them in the disk cache, and map that file from then on.

    Args:
        talker: The talker that is changed.
        entry: Name in the cache; None to convert for this process only.
        made_from: See :func:`anytalk.plugins.disk_cache.kept`.
        measure: Returns the largest inputs; called only if nothing is in the cache.
        build: Replaces the matrices.
    """
    made: MadeBefore | None = None
    names = {module: name for name, module in talker.model.named_modules()}

    def make(place: Path | None) -> None:
        nonlocal made
        peaks, made = measure(), MadeBefore()
        with made.used():
            build(peaks)
        if place is not None:
            place.mkdir()
            seen = {f"peaks.{names[module]}": seen for module, seen in peaks.items()}
            safetensors.torch.save_file({**made.tensors, **seen}, place / _MATRICES)

    folder = None if entry is None else kept(entry, made_from, make)
    if made is not None:
        return  # `make` has just run, for the cache
    if folder is None:  # no name or no cache: convert for this process only
        make(None)
        return
    # This maps the file into memory instead of reading it.
    tensors = safetensors.torch.load_file(folder / _MATRICES)
    peaks = {module: tensors[f"peaks.{n}"] for module, n in names.items() if f"peaks.{n}" in tensors}
    with MadeBefore(tensors).used():
        build(peaks)


def _name_of(talker: Talker, arithmetic: Arithmetic) -> str | None:
    """Name the cache entry by a digest of all that the matrices depend on; None if that can't be known cheaply.

    Weights on the hub have no files here to look at.
    """
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
        # Trained weights differ from the files that they were loaded from.
        fingerprint(talker.model, without=("encoder.", "ears.")),
        config.grid.model_dump_json(),
        CALIBRATION_TEXT,
        torch.__version__,
    )
    # The 1 is the version of the conversion and of the file's layout.
    return f"{arithmetic}-1-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"


@torch.no_grad()
def calibrate(talker: Talker) -> Peaks:
    """Measure the largest inputs of each matrix while the talker reads :data:`CALIBRATION_TEXT`.

    The second half is read as a spoken answer whose codes are random, because nothing has been generated yet.
    """
    model = talker.model
    layout = model.layout
    ids = np.array(model.backbone.tokenizer.encode(CALIBRATION_TEXT)[:256], dtype=np.int64)
    tokens = np.full((layout.num_streams, len(ids)), layout.pad_a, dtype=np.int64)
    # The first half is read as text alone, like a prompt; the second half has audio, like an answer.
    tokens[layout.text_row] = ids
    half = len(ids) // 2
    noise = np.random.default_rng(0).integers(0, layout.codebook_size, (layout.num_audio_streams, len(ids) - half))
    tokens[: layout.text_row, half:] = noise
    with peaks_of(model) as peaks:
        _read(model, torch.from_numpy(tokens)[None].to(talker.device))
    return peaks


@dataclass
class _Answer:
    """Presents a grid as one spoken answer; see :class:`anytalk.plugins.contracts.Answers`."""

    tokens: Tensor
    loss_mask: Tensor
    answer_mask: Tensor
    speaker: Tensor
    reads: Tensor


def _read(model: TalkModel, tokens: Tensor) -> None:
    states: BackboneStates | None = None
    if not isinstance(model.backbone, ServedBackbone):
        states = model.backbone(model.embed(GridBatch(tokens)).backbone)
        # The largest inputs alone are as large as all of them, and a head takes as long as a third of the layers.
        model.text_logits(states.normed.abs().amax(dim=1, keepdim=True))
    said = torch.ones_like(tokens[:, 0], dtype=torch.bool)
    nobody = torch.zeros_like(tokens[:, 0, 0])
    answer = _Answer(tokens, torch.ones_like(tokens, dtype=torch.bool), said, nobody, nobody.bool())
    spoken = model.route.train(model, answer, states)
    wanted = spoken.tokens[0, : model.layout.text_row, 1:]
    model.route.logits(model, spoken.hidden[0, :-1], wanted)
