"""Runs a straightforward decoding loop to compare speed with: Mini-Omni's own, step by step, on the same talker.

It encodes thirty seconds however short the question is. Both rows read the whole prompt and run to the end, output
adapter and audio heads included, and the logits of all prompt positions are computed. The cache grows. Every four
frames the codec decodes these four by themselves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from anytalk.decode.session import listen
from anytalk.errors import ConfigError
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import BackboneAdapter, BackboneStates, GridBatch, Heard

STRIDE_FRAMES = 4
"""Frames per piece of sound, as in the released code."""


@dataclass
class NaiveAnswer:
    """Holds the times of the loop, in seconds."""

    encode_s: float = 0.0  # to embed the question
    prefill_s: float = 0.0  # to read the prompt
    steps_s: list[float] = field(default_factory=list)  # of each step without the codec
    codec_s: list[float] = field(default_factory=list)  # of each piece of sound
    first_audio_s: float = 0.0  # from the question to the first piece of sound


@torch.no_grad()
def answer_naively(talker: Talker, wave: np.ndarray, num_columns: int) -> NaiveAnswer:
    """Answer a spoken question greedily with `num_columns` columns, or as many as the first piece of sound needs.

    Args:
        talker: A talker in exact arithmetic whose audio is fed back into the backbone.
        wave: (N,) float32 at the encoder's rate.

    Raises:
        ConfigError: The original's loop can't run this talker.
    """
    model, layout = talker.model, talker.model.layout
    if not isinstance(model.output_adapter, BackboneAdapter):
        raise ConfigError("the original's loop can't run a talker whose backbone isn't fed its own speech")
    made = NaiveAnswer()
    began = time.perf_counter()
    speech = _listen_padded(talker, wave).columns
    if speech is None:
        raise ConfigError("the original's loop needs columns of speech; these ears write words", "leave --baseline out")
    made.encode_s = time.perf_counter() - began
    prompt = talker.prompts.prompt(TASKS["A1A2"], [Turn("user", None, speech_columns=speech.shape[0])])
    rows = [prompt, talker.prompts.text_only_row(prompt)]
    tokens = torch.from_numpy(np.stack([row.tokens for row in rows])).to(talker.device)
    spans = [[(start, speech) for start, _ in row.speech_spans] for row in rows]
    pattern = talker.config.grid.delay_pattern()
    # The last stream lags most, so its codes complete the first frames.
    first_piece = pattern.lag(layout.num_audio_streams - 1) + STRIDE_FRAMES * pattern.steps_per_frame
    num_columns = max(num_columns, first_piece)
    cache = model.new_cache(2, tokens.shape[2] + num_columns, 2)
    columns: list[np.ndarray] = []
    num_said = 0
    for number in range(num_columns):
        clock = time.perf_counter()
        states: BackboneStates = model.backbone(model.embed(GridBatch(tokens, spans)).backbone, cache.backbone)
        heard = model.output_adapter(states, cache.output_adapter)
        text_logits, audio_logits = model.text_logits(states.normed), model.audio_logits(heard)
        text = int(text_logits[1, -1].argmax())
        columns.append(audio_logits[0, :, -1, : layout.codebook_size].argmax(dim=-1).cpu().numpy())
        tokens = torch.full((2, layout.num_streams, 1), layout.pad_a, device=talker.device)
        tokens[:, layout.text_row] = text
        tokens[0, : layout.text_row, 0] = torch.from_numpy(columns[-1]).to(talker.device)
        spans = []
        if number == 0:
            made.prefill_s = time.perf_counter() - clock
        else:
            made.steps_s.append(time.perf_counter() - clock)
        ready = pattern.frames_ready(len(columns))
        if ready - num_said >= STRIDE_FRAMES:
            clock = time.perf_counter()
            codes = pattern.undo(np.stack(columns, axis=1), ready, first_frame=num_said)
            talker.codec.decode(torch.from_numpy(codes)[None].to(talker.device))
            made.codec_s.append(time.perf_counter() - clock)
            made.first_audio_s = made.first_audio_s or time.perf_counter() - began
            num_said = ready
    return made


def _listen_padded(talker: Talker, wave: np.ndarray) -> Heard:
    """Encode a question padded to 30 s, if the encoder has an option for it."""
    encoder: Any = talker.model.encoder
    before = getattr(encoder, "pad_to_30s", None)
    if encoder is None or before is None:
        return listen(talker, wave)
    encoder.pad_to_30s = True
    try:
        return listen(talker, wave)
    finally:
        encoder.pad_to_30s = before
