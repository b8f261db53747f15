"""Tiny talkers for the tests of decoding: random weights, made in a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import model_folder
from torch import Tensor

from anytalk.decode.answer import Column
from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.runner import columns_of
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import TASKS
from anytalk.model.assemble import assemble
from anytalk.model.config import TalkerConfig
from anytalk.model.talker import Talker
from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.registry import default_registry

STREAMS, CODES = 3, 12
HF_ADAPTERS: dict[str, dict[str, Any]] = {
    "talker": {
        "width": 64,
        "num_layers": 1,
        "letter_width": 64,
        "num_letter_layers": 1,
        "reads_states": True,
    },
    "blocks": {"num_blocks": 1},
    "none": {},
}


def make_talker(
    *,
    adapter: str = "blocks",
    adapter_options: dict[str, Any] | None = None,
    speakers: tuple[str, ...] = (),
    dtype: str = "float32",
    ears: bool = True,
    input_adapter: dict[str, Any] | None = None,
    hearing: dict[str, Any] | None = None,
    **grid: Any,
) -> Talker:
    """A talker of tiny parts whose answers vary: its backbone is small enough to be moved by every token."""
    options = adapter_options or ({"num_blocks": 1} if adapter == "blocks" else {})
    config = TalkerConfig.model_validate(
        {
            "backbone": {"name": "tiny", "options": {"width": 16, "num_blocks": 1}},
            "encoder": {"name": "tiny"} if ears else None,
            "encoder_width": 16,
            "input_adapter": (input_adapter or {"name": "stack", "options": {"factor": 5}}) if ears else None,
            "hearing": hearing,
            "output_adapter": {"name": adapter, "options": options},
            "heads": {"name": "shared"},
            "codec": {"name": "tiny", "options": {"num_streams": STREAMS, "codebook_size": CODES}},
            "grid": {"codec_streams": STREAMS, "codebook_size": CODES, **grid},
            "speakers": list(speakers),
        }
    )
    registry = default_registry()
    return Talker(config, assemble(config, registry, dtype=dtype), registry)


def hf_talker(folder: Path, adapter: str, speakers: tuple[str, ...] = (), family: str = "llama", **grid: Any) -> Talker:
    """A talker on a random model of transformers, whose caches are joinable."""
    config = TalkerConfig.model_validate(
        {
            "backbone": {
                "name": "llama" if family == "llama" else "hf",
                "options": {"model": str(model_folder(folder, family))},
            },
            "encoder": {"name": "tiny"},
            "encoder_width": 16,
            "input_adapter": {"name": "stack", "options": {"factor": 5}},
            "output_adapter": {"name": adapter, "options": HF_ADAPTERS[adapter]},
            "heads": {"name": "parallel"},
            "codec": {"name": "tiny", "options": {"num_streams": STREAMS, "codebook_size": CODES}},
            "grid": {"codec_streams": STREAMS, "codebook_size": CODES, **grid},
            "speakers": list(speakers),
        }
    )
    registry = default_registry()
    return Talker(config, assemble(config, registry), registry)


class PlainCache(KeyValueCache):
    """A cache that neither joins nor forgets, as that of a third party may be."""

    join = take = forget = None


def with_plain_caches(talker: Talker) -> Talker:
    """The same talker on a backbone whose caches are :class:`PlainCache`."""
    talker.model.backbone.new_cache = lambda batch_size, max_steps: PlainCache(batch_size, max_steps)
    blocks = getattr(talker.model.output_adapter, "blocks", None)
    if blocks is not None:
        blocks.new_cache = talker.model.backbone.new_cache
    return talker


def end_text_after(talker: Talker, num_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the talker say so many text tokens, then its end token (once in an answer, for the first answer)."""
    _push(talker.model, "text_logits", num_tokens, talker.model.layout.end_of_text_id, ..., monkeypatch)


def end_audio_after(talker: Talker, num_columns: int, monkeypatch: pytest.MonkeyPatch, stream: int = 0) -> None:
    """Let one audio stream want eoa from the given column on, and never before."""
    index = (slice(None), stream)
    _push(talker.model, "audio_logits", num_columns, talker.model.layout.eoa, index, monkeypatch)


def _push(model: Any, name: str, calls: int, token: int, index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original, made = getattr(model, name), 0

    def pushed(hidden: Tensor) -> Tensor:
        nonlocal made
        logits: Tensor = original(hidden).clone()
        logits[index][..., token] = 1e4 if made >= calls else -1e4
        made += 1
        return logits

    monkeypatch.setattr(model, name, pushed)


def randomise(talker: Talker, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what the heads say by noise, the end tokens being likely."""
    generator = torch.Generator().manual_seed(seed)
    layout, model = talker.model.layout, talker.model
    text_logits, audio_logits = model.text_logits, model.audio_logits

    def text(normed: Tensor) -> Tensor:
        logits = torch.randn(text_logits(normed).shape, generator=generator)
        logits[..., layout.end_of_text_id] += 2.0
        return logits

    def audio(hidden: Tensor) -> Tensor:
        logits = torch.randn(audio_logits(hidden).shape, generator=generator)
        logits[..., layout.codebook_size :] += 1.0
        return logits

    monkeypatch.setattr(model, "text_logits", text)
    monkeypatch.setattr(model, "audio_logits", audio)


def generation_of(
    talker: Talker, task: str = "T1A2", *, batch_parallel: bool = True, turns: list[Turn] | None = None, **options: Any
) -> Generation:
    """A generation for a typed question, or for a spoken one with made-up speech embeddings."""
    spoken = TASKS[task].speech_in
    turns = turns or [Turn("user", None if spoken else "hi", speech_columns=4 if spoken else 0)]
    prompt = talker.prompts.prompt(TASKS[task], turns)
    two = TASKS[task].audio_out and batch_parallel
    generator = torch.Generator().manual_seed(9)
    speech = [torch.randn(n, talker.model.backbone.width, generator=generator) for _, n in prompt.speech_spans]
    given = {name: options.pop(name) for name in ("given_text", "speaker") if name in options}
    return Generation(
        talker.model,
        talker.config.grid.delay_pattern(),
        DecodeOptions(batch_parallel=batch_parallel, **{"max_columns": 12, **options}),
        [prompt, talker.prompts.text_only_row(prompt)] if two else [prompt],
        speech,
        audio_out=TASKS[task].audio_out,
        **given,
    )


def columns_from(*arguments: Any, **options: Any) -> Iterator[Column]:
    """The columns of :func:`generation_of`."""
    return columns_of(generation_of(*arguments, **options))


def spoken(columns: list[Column]) -> np.ndarray:
    """Audio rows of the answer, (K,T)."""
    return np.stack([column.audio for column in columns if column.audio is not None], axis=1)


@torch.no_grad()
def base_text(talker: Talker, question: str, count: int) -> list[int]:
    """What the base model alone would write, greedily."""
    backbone = talker.model.backbone
    chat = backbone.tokenizer.render_chat([{"role": "user", "content": question}])
    ids = backbone.tokenizer.encode_rendered(chat)
    start = len(ids)
    while len(ids) < start + count:
        states = backbone(backbone.embed_text(torch.tensor([ids])))
        ids.append(int(backbone.text_logits(states.normed)[0, -1].argmax()))
    return ids[start:]
