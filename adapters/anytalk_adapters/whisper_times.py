"""Finds when words were said, by where Whisper's decoder attends while it writes them (as `whisper.timing` does).

The words are read again in one pass. The attention heads that follow the sound give a table of tokens by frames, and a
monotonic path through that table gives each token its time.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from whisper.tokenizer import Tokenizer

from anytalk.plugins.contracts import HeardWord
from anytalk_adapters.whisper_attention import attend, heads_of, projected
from anytalk_adapters.whisper_window import Window
from anytalk_adapters.whisper_writer import WhisperWriter

_FRAMES_PER_S = 50
_SMOOTHED = 7
"""How many frames a median is taken over, as in whisper."""
_MARKS = string.punctuation + "。，！？：”、“‘’…"


@torch.no_grad()
def word_times(writer: WhisperWriter, window: Window, num_frames: int, text: str) -> list[HeardWord]:
    """Return the times of the words in a clip, of whose frames the first `num_frames` hold its sound."""
    tokenizer = writer.tokenizer_of(window)
    ids = tokenizer.encode(f" {text.strip()}")
    if not text.strip():
        return []
    start = len(tokenizer.sot_sequence)
    looks = _looks(writer, window, [*tokenizer.sot_sequence, tokenizer.no_timestamps, *ids])[:, :, :num_frames]
    chances = looks.softmax(dim=-1)
    spread, mean = torch.std_mean(chances, dim=1, keepdim=True, unbiased=False)
    # Normalised per frame and smoothed along time, as in whisper.
    even = F.pad((chances - mean) / (spread + 1e-9), (_SMOOTHED // 2, _SMOOTHED // 2), mode="replicate")
    # Row i is the step that predicts text token i; the last row predicts the end of the text.
    table = even.unfold(2, _SMOOTHED, 1).median(dim=-1).values.mean(dim=0)[start:]
    begins = first_frames(table.double().cpu().numpy())
    words, place = [], 0
    for word, spoken, size in _words(tokenizer, ids):
        begin, end = begins[place] / _FRAMES_PER_S, begins[place + spoken] / _FRAMES_PER_S
        words.append(HeardWord(word, begin, end))
        place += size
    return words


def first_frames(table: np.ndarray) -> list[int]:
    """Return the first frame of each row on the best path through a table (R,F) of scores (dynamic time warping).

    The path starts in the first row and frame, ends in the last, and each of its steps advances the row, the frame or
    both.
    """
    rows, frames = table.shape
    best = np.full((rows + 1, frames + 1), -np.inf)
    best[0, 0] = 0.0
    for row in range(rows):
        above = np.maximum(best[row, :-1], best[row, 1:])
        reached, here = -np.inf, best[row + 1]
        for frame, (before, fits) in enumerate(zip(above.tolist(), table[row].tolist(), strict=True)):
            reached = max(reached, before) + fits
            here[frame + 1] = reached
    row, frame, found = rows, frames, [0] * rows
    while row > 0:
        found[row - 1] = frame - 1
        steps = {(1, 1): best[row - 1, frame - 1], (1, 0): best[row - 1, frame], (0, 1): best[row, frame - 1]}
        down, left = max(steps, key=lambda step: steps[step])
        row, frame = row - down, frame - left
    return found


def _looks(writer: WhisperWriter, window: Window, ids: Sequence[int]) -> Tensor:
    """Return the attention scores (heads,tokens,K), before the softmax, of the heads that follow the sound."""
    features = window.features[None]
    follows = writer.model.alignment_heads.to_dense()
    decoder = writer.decoder
    x = decoder.token_embedding(torch.tensor([ids], device=features.device)) + decoder.positional_embedding[: len(ids)]
    found = []
    for layer, block in enumerate(decoder.blocks):
        x = x + block.attn(block.attn_ln(x), mask=decoder.mask)[0]
        y = block.cross_attn_ln(x)
        heard = block.cross_attn
        query, (keys, values) = heads_of(heard, heard.query(y)), projected(heard, features)
        found.append((query @ keys.mT)[0, follows[layer]] * query.shape[-1] ** -0.5)
        x = x + attend(heard, y, keys, values, window.log_counts)
        x = x + block.mlp(block.mlp_ln(x))
    return torch.cat(found)


def _words(tokenizer: Tokenizer, ids: list[int]) -> list[tuple[str, int, int]]:
    """Return each word, its number of tokens, and that number with the punctuation that follows it."""
    words: list[tuple[str, int, int]] = []
    for text, tokens in zip(*tokenizer.split_to_word_tokens([*ids, tokenizer.eot]), strict=True):
        if tokens[-1] == tokenizer.eot:
            tokens, text = tokens[:-1], tokenizer.decode(tokens[:-1])
        if words and not text.strip().strip(_MARKS):
            before, spoken, size = words[-1]
            words[-1] = (before + text.strip(), spoken, size + len(tokens))
        elif tokens:
            words.append((text.strip(), len(tokens), len(tokens)))
    return words
