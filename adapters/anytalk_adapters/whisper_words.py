"""Gives every text token of a backbone an embedding of Whisper's decoder, by the token's text."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from anytalk.plugins.contracts import TextTokenizer

from .spelling import Spelling
from .whisper_states import STATES_SCALE
from .whisper_weights import load_whisper, writer_tokenizer

__all__ = ["whisper_embeddings"]


def whisper_embeddings(spec: str, tokenizer: TextTokenizer, vocab_size: int, folder: Path | None = None) -> Tensor:
    """Return (V,E) float32: for each token, the mean of Whisper's embeddings of the tokens that spell it.

    They are divided by the factor of the encoder's states, so that the product with a state is Whisper's logit.
    Most words that are one token for the backbone are one for Whisper. Marks, and tokens that are only a part of a
    character, get zeros.

    Args:
        spec: The Whisper, named as in the speech encoder ``whisper``.
        tokenizer: The backbone's tokenizer.
        vocab_size: V, its number of tokens.
        folder: Folder that relative paths start from.

    Raises:
        WeightsError: The weights can't be found or read.
    """
    model = load_whisper(spec, folder)
    embeddings = model.decoder.token_embedding.weight.detach() / STATES_SCALE
    encoding = writer_tokenizer(model).encoding
    spelling = Spelling(tokenizer)
    written = [encoding.encode_ordinary(spelling.text_of(token)) for token in range(vocab_size)]
    sizes = torch.tensor([len(ids) for ids in written])
    flat = torch.tensor([token for ids in written for token in ids])
    found: Tensor = F.embedding_bag(flat, embeddings, sizes.cumsum(0) - sizes, mode="mean")  # zeros for an empty text
    return found
