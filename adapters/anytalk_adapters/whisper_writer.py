"""Decodes with Whisper greedily, with a key-value cache, and stops when the text repeats itself."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from whisper.model import Whisper
from whisper.tokenizer import Tokenizer

from anytalk.kernels import Int8Matrix, RefinedMatrix
from anytalk.plugins.contracts import Hints
from anytalk_adapters.whisper_attention import attend, projected
from anytalk_adapters.whisper_ready import make_int8
from anytalk_adapters.whisper_weights import language_for, writer_tokenizer
from anytalk_adapters.whisper_window import Window

_TOKENS_PER_S = 10
"""More text tokens than anybody speaks in a second: fast speech has 5 words, which are about 7 tokens."""
_SPARE_TOKENS = 8
_LONGEST_PERIOD = 12
_LOOP_TIMES, _LOOP_TOKENS = 4, 24
"""A loop is a sequence that occurs at least four times in a row and has 24 tokens in all; "No, no, no, no, no, no!" has
twelve."""
_SURE = -0.5


def says_nothing(silence: float, mean: float) -> bool:
    """Return whether a clip has no speech, by Whisper's probability of that and the words' mean log likelihood.

    Of silence, fans and breath Whisper writes "you" and "Thank you.", at -0.6 to -2. The bound is a line through the
    point by which Whisper itself decides (0.6 and -1). For people's speech the probability is at most 0.4, and less
    where Whisper is unsure of the words.
    """
    return mean < _SURE and silence > 1 + 0.4 * mean


@dataclass(frozen=True)
class Written:
    """Holds the transcript of one clip."""

    text: str  # `""` if no speech was found
    confidence: float  # geometric mean of the tokens' likelihoods, including the end token's
    ran_away: bool  # whether decoding was stopped, because it repeated itself or wrote too many tokens
    tokens: tuple[int, ...] = ()  # Whisper's, without what was repeated


_Heard = tuple[Tensor, Tensor, Tensor | None]
"""Keys and values, (1,H,K,W/H) each, and the logarithm of how often each counts, as :class:`Window` has it."""


class _Keys:
    """Holds the keys and values of one attention layer, (1,H,T,W) each."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values; return all of them."""
        if self.keys is None or self.values is None:
            self.keys, self.values = keys, values
        else:
            self.keys, self.values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        return self.keys, self.values


class WhisperWriter(nn.Module):
    """Decodes the features of Whisper's encoder to text.

    Args:
        model: A whole Whisper model, of which the decoder is used.
        language: A code such as ``"en"``; None detects the language of each clip.
        before: Text that is taken to be in front of each clip.
    """

    def __init__(self, model: Whisper, language: str | None, before: str = "") -> None:
        super().__init__()
        self.decoder = model.decoder
        self._refined: RefinedMatrix | None = None  # the head in 8 bits; without it, the embedding's weights
        # A tuple hides the whole model from nn.Module; only its decoder is part of this one.
        self._model = (model,)
        self._language, self._before = language, before
        self._tokenizers: dict[str, Tokenizer] = {}

    @torch.no_grad()
    def forward(self, window: Window, duration_s: float) -> Written:
        """Transcribe one clip with `duration_s` seconds of speech."""
        heard = self._looked_at(window)
        tokenizer = self._tokenizer(self._language or self._detected(heard))
        prompt = [*self._read_before(tokenizer), *tokenizer.sot_sequence_including_notimestamps]
        room = min(self._model[0].dims.n_text_ctx - len(prompt), math.ceil(duration_s * _TOKENS_PER_S) + _SPARE_TOKENS)
        # Self-attention grows with each token; the keys of the sound are computed once per clip.
        own = [_Keys() for _ in self.decoder.blocks]
        forbidden = self._forbidden(tokenizer, window.features.device)
        ids: list[int] = []
        chances: list[float] = []
        logits = self._step(prompt, 0, own, heard)
        start = prompt.index(tokenizer.sot)
        # Whisper predicts "no speech" at the position of its start token.
        silence = float(logits[start].softmax(dim=-1)[tokenizer.no_speech])
        while len(ids) < room:
            last = logits[-1].masked_fill(forbidden, -torch.inf)
            if not ids:  # as in whisper, a text must not begin with its end or a space
                last[[tokenizer.eot, *tokenizer.encode(" ")]] = -torch.inf
            scores = last.log_softmax(dim=-1)
            token = int(scores.argmax())
            chances.append(float(scores[token]))
            if token == tokenizer.eot:
                break
            ids.append(token)
            if loop_length(ids):
                break
            logits = self._step([token], len(prompt) + len(ids) - 1, own, heard)
        ran_away = len(ids) == len(chances)  # otherwise the last token was the end
        loop = loop_length(ids)
        # The first occurrence stays.
        ids = ids[: len(ids) - loop] if loop else ids
        mean = sum(chances) / len(chances)
        text = "" if says_nothing(silence, mean) else tokenizer.decode(ids).strip()
        return Written(text, math.exp(mean), ran_away, tuple(ids))

    def hinted(self, hints: Hints) -> WhisperWriter:
        """Return a writer with the same weights that is told something of the clips (ConfigError: no such language)."""
        language = self._language if hints.language is None else language_for(self.model, hints.language)
        told = copy.copy(self)
        told._language, told._before = language, hints.prompt
        return told

    def make_int8(self) -> None:
        """Multiply in 8 bits from now on, and compute the likeliest tokens' scores again exactly."""
        make_int8(self.decoder)
        weight = self.decoder.token_embedding.weight
        self._refined = RefinedMatrix(weight, Int8Matrix(weight))

    def _read_before(self, tokenizer: Tokenizer) -> list[int]:
        """Return the text in front as openai-whisper shows it: its end, where it is long."""
        if not self._before:
            return []
        most = self.model.dims.n_text_ctx // 2 - 1
        return [tokenizer.sot_prev, *tokenizer.encode(f" {self._before}")[-most:]]

    def _looked_at(self, window: Window) -> list[_Heard]:
        """Return for each layer the keys and values of the sound."""
        features = window.features[None]
        return [(*projected(block.cross_attn, features), window.log_counts) for block in self.decoder.blocks]

    def _step(self, ids: list[int], position: int, own: list[_Keys], heard: list[_Heard]) -> Tensor:
        """Decode tokens that follow `position` others; return their logits (n,V)."""
        decoder = self.decoder
        x = decoder.token_embedding(torch.tensor([ids], device=decoder.positional_embedding.device))
        x = x + decoder.positional_embedding[position : position + len(ids)]
        for block, keys, looked_at in zip(decoder.blocks, own, heard, strict=True):
            y = block.attn_ln(x)
            x = x + attend(block.attn, y, *keys.add(*projected(block.attn, y)), is_causal=len(ids) > 1)
            x = x + attend(block.cross_attn, block.cross_attn_ln(x), *looked_at)
            x = x + block.mlp(block.mlp_ln(x))
        x = decoder.ln(x)
        logits: Tensor = F.linear(x, decoder.token_embedding.weight) if self._refined is None else self._refined(x)
        return logits[0].float()

    @property
    def model(self) -> Whisper:
        """Return the whole model."""
        return self._model[0]

    def tokenizer_of(self, window: Window) -> Tokenizer:
        """Return the tokenizer for the language of a clip."""
        return self._tokenizer(self._language or self._detected(self._looked_at(window)))

    def _tokenizer(self, language: str) -> Tokenizer:
        if language not in self._tokenizers:
            self._tokenizers[language] = writer_tokenizer(self._model[0], language)
        return self._tokenizers[language]

    def _detected(self, heard: list[_Heard]) -> str:
        """Return the code of the likeliest language, as `whisper.decoding.detect_language` does."""
        if not self._model[0].is_multilingual:
            return "en"
        tokenizer = self._tokenizer("en")
        logits = self._step([tokenizer.sot], 0, [_Keys() for _ in self.decoder.blocks], heard)[0]
        best = int(logits[list(tokenizer.all_language_tokens)].argmax())
        return str(tokenizer.all_language_codes[best])

    def _forbidden(self, tokenizer: Tokenizer, device: torch.device) -> Tensor:
        """Return (V,) bool: tokens that aren't speech, and all special tokens except the end."""
        mask = torch.zeros(self._model[0].dims.n_vocab, dtype=torch.bool, device=device)
        mask[tokenizer.eot + 1 :] = True
        # Whisper suppresses these by default, too: brackets, musical notes and other annotations.
        mask[list(tokenizer.non_speech_tokens)] = True
        return mask


def loop_length(ids: list[int]) -> int:
    """Return how many tokens at the end only repeat the ones before them; 0 if nothing repeats.

    >>> loop_length([5] + [1, 2, 3] * 4)
    9
    """
    for period in range(1, _LONGEST_PERIOD + 1):
        times = max(_LOOP_TIMES, math.ceil(_LOOP_TOKENS / period))
        tail = ids[-period * times :]
        if len(tail) == period * times and tail == tail[:period] * times:
            return period * (times - 1)
    return 0
