"""Implements the input adapter ``ctc``: it recognises text tokens by CTC and returns their text embeddings.

Each frame is compared with the backbone's own text embeddings; the most likely tokens, weighted by their probabilities,
are mixed into a column, as in LegoSLM (arXiv 2505.11352). New here: blank frames are left out and the frames of one
token become one column, so that a question that was recognised well equals the typed question, position by position,
and gets the same answer. And tokens are also told apart by their spelling: in a table of embeddings "butter" is close
to "bread", because they are close in meaning, but they sound different. With `states`, frames are compared with the
token embeddings of Whisper's decoder instead, and training starts from what that decoder would write at each place.

It can be trained in two ways, which combine: by ``align`` (CTC against the transcript; it runs no backbone, hence
hundreds of questions a second on a CPU), and by every loss after the backbone, whose gradients reach the mixed columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.errors import ConfigError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, HeardBatch, TextTokenizer

from .frame_listener import FrameListener, FrameOptions
from .input_adapters import padded_columns, valid_positions
from .spelling import NUM_LETTERS, Spelling

_MAX_LETTERS = 12


class Speller(nn.Module):
    """Maps token ids to keys by their spelling: it embeds each letter by its place from both ends, then runs an MLP."""

    def __init__(self, tokenizer: TextTokenizer, vocab_size: int, width: int, out_width: int) -> None:
        super().__init__()
        self._spelling = Spelling(tokenizer, _MAX_LETTERS)
        self._vocab_size = vocab_size
        self._letters: Tensor | None = None
        places = _MAX_LETTERS * NUM_LETTERS + 1  # the last is an empty slot
        self.from_start = nn.EmbeddingBag(places, width, mode="sum", padding_idx=places - 1)
        self.from_end = nn.EmbeddingBag(places, width, mode="sum", padding_idx=places - 1)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, out_width)
        for table in (self.from_start, self.from_end):
            nn.init.normal_(table.weight, std=0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (n,) int64 to keys (n,D)."""
        letters = self._slots(ids.device)[:, ids]  # (2,n,_MAX_LETTERS)
        x = self.from_start(letters[0]) + self.from_end(letters[1])
        found: Tensor = self.narrow(F.gelu(self.wide(self.norm(x))))
        return found

    def _slots(self, device: torch.device) -> Tensor:
        """Return (2,V,_MAX_LETTERS) int64: the row of each letter of each token in the two tables. Computed once."""
        if self._letters is None or self._letters.device != device:
            spelt = [self._spelling.letters_of(token) for token in range(self._vocab_size)]
            sizes = torch.tensor([len(line) for line in spelt])
            letters = torch.tensor([letter for line in spelt for letter in line])
            token = torch.repeat_interleave(torch.arange(self._vocab_size), sizes)
            place = torch.arange(len(letters)) - (sizes.cumsum(0) - sizes)[token]
            slots = torch.full((2, self._vocab_size, _MAX_LETTERS), _MAX_LETTERS * NUM_LETTERS)
            # The second table counts from the end.
            for end, at in enumerate((place, sizes[token] - 1 - place)):
                slots[end, token, at] = at * NUM_LETTERS + letters
            self._letters = slots.to(device)
        return self._letters


class CtcAdapter(FrameListener):
    """Turns frames into the text embeddings of the tokens recognised in them."""

    class Options(FrameOptions):
        width: int = Field(384, ge=8, description="Width between the encoder and the text embeddings.")
        candidates: int = Field(16, ge=1, description="How many of the likeliest tokens are mixed into a column.")
        temperature: float = Field(1.0, gt=0, description="Values below 1 move columns towards the likeliest token.")
        negatives: int = Field(
            2048,
            ge=1,
            description="Other tokens that `align` compares with: each id below this, and id n with the chance "
            "negatives / n, because tokenizers give low ids to frequent tokens.",
        )
        spelling_width: int = Field(
            96, ge=0, description="Width of the spelling encoder; 0 compares by the text embeddings alone."
        )
        states: str = Field(
            "",
            description="The Whisper whose decoder's states end each row of features (encoder `whisper_states`, named "
            "as there). Training then starts from the tokens that Whisper would write.",
        )

        @model_validator(mode="after")
        def _states_are_whole(self) -> Self:
            if self.states and self.factor != 1:
                raise ValueError("states needs factor 1: the encoder 'whisper_states' has grouped the frames already")
            return self

    def __init__(
        self, options: CtcAdapter.Options, encoder_width: int, backbone: Backbone, folder: Path | None = None
    ) -> None:
        super().__init__(options, encoder_width, folder)
        self.options: CtcAdapter.Options = options
        width = options.width
        self._written: Tensor | None = None  # (V,E) embeddings of Whisper's decoder
        key_width = backbone.width
        if options.states:
            # Not at the top: whisper takes a second to import.
            from .whisper_words import whisper_embeddings

            self._written = whisper_embeddings(options.states, backbone.tokenizer, backbone.text_vocab_size, folder)
            key_width = self._written.shape[1]
            if encoder_width <= key_width:
                raise ConfigError(
                    f"the speech encoder's features are {encoder_width} wide, the states of '{options.states}' alone "
                    f"{key_width}",
                    "take the speech encoder 'whisper_states' with the same Whisper, or leave `states` out",
                )
            self._group = encoder_width // key_width - 1
        self.out = nn.Linear(width, key_width)
        self.blank = nn.Linear(width, 1)
        # A tuple hides the backbone from nn.Module, which would save and train it as part of the adapter.
        self._backbone = (backbone,)
        self._tables: tuple[Tensor, Tensor] | None = None
        self.speller: Speller | None = None
        if options.spelling_width:
            self.speller = Speller(backbone.tokenizer, backbone.text_vocab_size, options.spelling_width, key_width)
        if options.states:  # training starts from the states alone
            for layer in (self.out, *([self.speller.narrow] if self.speller else [])):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    @classmethod
    def build(cls, options: CtcAdapter.Options, context: BuildContext) -> CtcAdapter:
        width, backbone = context.need_encoder_width(), context.need_backbone()
        return cls(options, width, backbone, context.folder).to(context.device)

    def train(self, mode: bool = True) -> CtcAdapter:
        """Drop the kept embeddings of the backbone: its weights may have changed."""
        self._tables = None
        super().train(mode)
        return self

    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Recognise tokens in (B,F,E) features with (B,) lengths.

        Returns (B,F',D) with a column per token and at least one per clip; outside of training also the tokens.
        """
        hidden, scores, places = self._listen(features, lengths)
        with torch.no_grad():
            best, is_token = self._likeliest(hidden, scores, places)
        rows, lines = [], []
        for row, (likeliest, spoken) in enumerate(zip(best, is_token, strict=True)):
            at = spoken.nonzero()[:, 0]
            ids = likeliest[at]  # (n,candidates)
            # A frame begins a column unless the frame right before it holds the same token.
            begins = torch.ones(len(at), dtype=torch.int64, device=at.device)
            begins[1:] = ((at[1:] != at[:-1] + 1) | (ids[1:, 0] != ids[:-1, 0])).long()
            column = begins.cumsum(0) - 1
            number = int(column[-1]) + 1
            embeds, keys = self._embeddings(ids)
            likely = (keys @ hidden[row, at, :, None])[..., 0]  # (n,candidates)
            mixed = ((likely / self.options.temperature).softmax(dim=-1)[..., None] * embeds).sum(dim=1)  # (n,D)
            # Of the frames of one token, those that are more certain that they aren't blank count more. The 1e-4 keeps
            # the division defined.
            weight = (likely.logsumexp(dim=-1, keepdim=True) - scores[row, at]).sigmoid() + 1e-4
            weights = weight.new_zeros(number, 1).index_add(0, column, weight)
            rows.append(mixed.new_zeros(number, mixed.shape[1]).index_add(0, column, weight * mixed) / weights)
            if not self.training:
                lines.append(tuple(ids[begins.bool(), 0].tolist()))
        columns, counts = padded_columns(rows, self.output_length(features.shape[1]), lengths)
        return HeardBatch(columns, counts, lines or None)

    @torch.no_grad()
    def token_chances(self, features: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """Return (T,1+V) log probabilities for each clip of (B,F,E) frames with (B,) lengths: blank, then tokens."""
        hidden, scores, places = self._listen(features, lengths)
        keys = self._whole_tables(hidden.device)[1]
        # One product for all clips: reading the keys of the whole vocabulary is what takes the time.
        is_place = valid_positions(hidden, places)
        chances = torch.cat([scores[is_place], hidden[is_place] @ keys.T], dim=-1).float().log_softmax(-1)
        return torch.split(chances, places.tolist())

    def align(self, features: Tensor, lengths: Tensor, transcripts: Sequence[Tensor]) -> Tensor:
        """Return the (B,) negative log likelihood of each clip's tokens under CTC, summed over its tokens.

        The softmax runs over the tokens of the batch and over others that are drawn and weighted by one over their
        chance to be drawn. Its denominator is then an unbiased estimate of the one over the whole vocabulary, which
        would take far more time (CTC: Graves et al., 2006; sampled softmax: Jean et al., arXiv 1412.2007).
        """
        hidden, scores, places = self._listen(features, lengths)
        own = torch.unique(torch.cat(list(transcripts)))
        others, log_counts = self._others(own)
        keys = self._keys(torch.cat([own, others]))[1]
        is_place = valid_positions(hidden, places)
        logits = (hidden[is_place] @ keys.T).float()  # (P,n)
        # CTC needs the sum of the others alone.
        rest = (logits[:, len(own) :] + log_counts).logsumexp(dim=-1, keepdim=True)
        logits = torch.cat([scores[is_place].float(), logits[:, : len(own)], rest], dim=-1)
        chances = logits.new_zeros(*hidden.shape[:2], logits.shape[1])
        chances[is_place] = logits.log_softmax(dim=-1)
        targets = torch.cat([torch.searchsorted(own, ids) + 1 for ids in transcripts])  # 0 is the blank
        sizes = torch.tensor([len(ids) for ids in transcripts], device=own.device)
        found: Tensor = F.ctc_loss(
            chances.transpose(0, 1), targets, places, sizes, reduction="none", zero_infinity=True
        )
        return found

    def _others(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Draw ids (n,) that aren't among the `own` ones; also return the log of how many tokens each stands for."""
        ids = torch.arange(self._backbone[0].text_vocab_size, device=own.device)
        counts = (ids / self.options.negatives).clamp(min=1)
        drawn = torch.rand(len(ids), device=own.device) * counts < 1
        drawn[own] = False
        return ids[drawn], counts[drawn].log()

    def _listen(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode (B,F,E), (B,) into (B,T,K) to compare with keys, (B,T,1) blank scores, (B,) valid positions."""
        features = self._partly_hidden(features)
        x, places = self._places(features, lengths)
        hidden = self.out(x)
        if self._written is not None:
            hidden = hidden + features[..., -hidden.shape[-1] :].to(hidden.dtype)
        return hidden, self.blank(x), places

    def _likeliest(self, hidden: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest tokens (B,T,candidates), and where one beats the blank (B,T), once per row at least."""
        keys = self._whole_tables(hidden.device)[1]
        number = min(self.options.candidates, len(keys))
        logits, best = (hidden.flatten(0, 1) @ keys.T).topk(number, dim=-1)
        # How much better than the blank the likeliest token is.
        lead = logits[:, :1].view_as(scores) - scores
        # Padding never wins, not even where every position of a row prefers the blank.
        lead = lead[..., 0].masked_fill(~valid_positions(hidden, places), -torch.inf)
        is_token = lead > 0
        # A prompt needs at least one column of speech.
        is_token[torch.arange(len(lead)), lead.argmax(dim=1)] = True
        return best.view(*hidden.shape[:2], -1), is_token

    def _whole_tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return :meth:`_keys` of the whole vocabulary, (V,D) each; kept outside of training."""
        everything = torch.arange(self._backbone[0].text_vocab_size, device=device)
        if self.training:  # each optimizer step changes the spelling keys
            return self._keys(everything)
        self._tables = self._tables or self._keys(everything)
        return self._tables

    def _keys(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the backbone's embeddings of ids (n,), (n,D), and the keys that frames are compared with, (n,K)."""
        with torch.no_grad():
            embeds = self._backbone[0].embed_text(ids[None])[0].to(self.out.weight.dtype)
            if self._written is None:
                keys = F.normalize(embeds, dim=-1)
            else:
                self._written = self._written.to(embeds)
                keys = self._written[ids]
        return embeds, keys if self.speller is None else keys + self.speller(ids)

    def _embeddings(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`_keys` for ids of any shape, looked up in the kept tables where no gradient is needed."""
        if self._tables is not None and not torch.is_grad_enabled():
            embeds, keys = (table[ids] for table in self._tables)
        else:
            # Candidates repeat from frame to frame; each token is embedded once.
            used, where = torch.unique(ids, return_inverse=True)
            embeds, keys = (part[where] for part in self._keys(used))
        return embeds, keys
