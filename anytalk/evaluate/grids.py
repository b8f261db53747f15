"""Compute greedy answers, the logits along given answers, and how far two logits differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.runner import columns_of
from anytalk.grid.prompts import Prompt
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import BackboneStates, GridBatch


def write_answer(talker: Talker, prompt: Prompt, speech: Sequence[Tensor], max_tokens: int) -> tuple[list[int], bool]:
    """Return the talker's greedy text answer.

    Args:
        prompt: Prompt of a task that writes.
        speech: Speech embeddings (L,D), one for each speech span of the prompt.
        max_tokens: Longest answer, including its end token.

    Returns:
        Text ids without the end token, and whether the answer ended by itself.
    """
    options = DecodeOptions(max_columns=max_tokens, rule=talker.config.decode_rule)
    pattern = talker.config.grid.delay_pattern()
    generation = Generation(talker.model, pattern, options, [prompt], speech, audio_out=False)
    for _ in columns_of(generation):
        pass
    return generation.answer.text_ids, generation.answer.finish_reason == "stop"


@torch.no_grad()
def answer_logits(talker: Talker, prompt: Prompt, speech: Sequence[Tensor], ids: Sequence[int]) -> Tensor:
    """Return the logits (len(ids),V) that predict each id of a given answer, without those of special tokens.

    Args:
        prompt: The prompt before the answer.
        speech: Speech embeddings (L,D), one for each speech span of the prompt.
    """
    tokens = np.concatenate([prompt.tokens, text_columns(talker, ids[:-1])], axis=1)
    logits = grid_logits(talker, tokens, [(s, e) for (s, _), e in zip(prompt.speech_spans, speech, strict=True)])
    # The last column of the prompt predicts the first token of the answer.
    return logits[prompt.num_columns - 1 :]


@torch.no_grad()
def grid_logits(talker: Talker, tokens: np.ndarray, speech: Sequence[tuple[int, Tensor]] = ()) -> Tensor:
    """Return text logits (T,V) of a grid (S,T) with speech at its columns, without those of special tokens."""
    model = talker.model
    batch = GridBatch(torch.from_numpy(tokens)[None].to(talker.device), [list(speech)])
    states: BackboneStates = model.backbone(model.embed(batch).backbone)
    return model.text_logits(states.normed)[0, :, : model.layout.text_vocab_size]


def text_columns(talker: Talker, ids: Sequence[int]) -> np.ndarray:
    """Return columns (S,len(ids)) with text ids, and pads in all audio rows."""
    layout = talker.model.layout
    columns = np.full((layout.num_streams, len(ids)), layout.pad_a, dtype=np.int64)
    columns[layout.text_row] = ids
    return columns


def kl_per_token(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first, second) in nats for each position of logits (T,V), (T,) float64; exactly 0 for equal logits."""
    p, q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp_min(0.0)  # rounding may give tiny negative values


def negative_log_likelihood(logits: Tensor, ids: Sequence[int]) -> float:
    """Return the summed negative log-likelihood of all ids but the first, in nats, from logits (T,V) after each id."""
    targets = torch.tensor(list(ids[1:]), device=logits.device)
    return float(-logits[:-1].double().log_softmax(-1).gather(-1, targets[:, None]).sum())
