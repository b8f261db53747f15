"""Defines the talking model: its parts, and the computation between them.

The token grid and speech columns become one embedding per step for the backbone. Its states go to the text head, and
through the output adapter to the audio heads, by the route that the adapter takes (:mod:`anytalk.model.routes`).

It knows nothing about tokenizers, codecs, sound files or sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.grid.tokens import StreamLayout
from anytalk.model.routes import route_of
from anytalk.plugins.contracts import (
    AudioTables,
    Backbone,
    Cache,
    Ears,
    Embedded,
    GridBatch,
    Heads,
    Heard,
    HeardBatch,
    Hearing,
    InputAdapter,
    Merged,
    OutputAdapter,
    Route,
    SpeechEncoder,
)

PART_NAMES = (
    "encoder",
    "input_adapter",
    "backbone",
    "output_adapter",
    "heads",
    "audio_embeddings",
    "special_tokens",
    "speaker",
)
"""Names of the parts that stages freeze or train, and that are saved separately."""


class AudioEmbeddings(nn.Module):
    """Holds an embedding for each code of each audio stream, ``weight`` (K,C,W)."""

    def __init__(self, layout: StreamLayout, width: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(layout.num_audio_streams, layout.codebook_size, width) * std)


class SpecialTokens(nn.Module):
    """Holds the small tables of special tokens.

    ``text`` (text slots,D) and ``audio`` (K,audio slots,W) are embeddings. ``text_head`` (text slots,D) has rows of the
    text head; it exists only if a text answer ends with eot.
    """

    text_head: nn.Parameter | None

    def __init__(self, layout: StreamLayout, width: int, std: float, audio_width: int, audio_std: float) -> None:
        super().__init__()
        audio_shape = (layout.num_audio_streams, layout.audio_special_slots, audio_width)
        self.text = nn.Parameter(torch.randn(layout.text_special_slots, width) * std)
        self.audio = nn.Parameter(torch.randn(audio_shape) * audio_std)
        has_head = layout.end_of_text_id == layout.eot
        self.text_head = nn.Parameter(torch.randn(layout.text_special_slots, width) * std) if has_head else None


@dataclass
class TalkCache:
    """Holds the caches of the backbone (all batch rows) and of the output adapter (the rows that speak)."""

    backbone: Cache
    output_adapter: Cache | None


class TalkModel(nn.Module):
    """Connects the parts and computes what lies between them; built by :func:`anytalk.model.assemble.assemble`."""

    def __init__(
        self,
        *,
        layout: StreamLayout,
        merge: str,
        backbone: Backbone,
        encoder: SpeechEncoder | None,
        input_adapter: InputAdapter | None,
        hearing: Hearing | None = None,
        ears: Ears | None = None,
        output_adapter: OutputAdapter,
        heads: Heads,
        audio_embeddings: AudioEmbeddings,
        special_tokens: SpecialTokens,
        speaker: nn.Embedding | None,
        encoder_width: int = 0,
    ) -> None:
        super().__init__()
        self.encoder_width = encoder_width or (encoder.width if encoder is not None else 0)
        self.layout = layout
        self.merge = merge
        self.backbone = backbone
        self.encoder = encoder
        self.input_adapter = input_adapter
        self.hearing = hearing
        self.ears = ears
        self.output_adapter = output_adapter
        self.heads = heads
        self.audio_embeddings = audio_embeddings
        self.special_tokens = special_tokens
        self.speaker = speaker

    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that exist, by name, in the order in which data passes them."""
        found = {name: getattr(self, name) for name in PART_NAMES}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def device(self) -> torch.device:
        return self.audio_embeddings.weight.device

    # ---- listening

    @property
    def listener(self) -> Ears | SpeechEncoder | None:
        """Return the part that takes the sound of questions; None for a talker without ears."""
        return self.ears or self.encoder

    def encode_speech(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B,N) samples with (B,) lengths into features (B,F,E) with (B,) frame counts."""
        assert self.encoder is not None, "this talker has no speech encoder"
        features, frames = self.encoder(wave, lengths)
        return features, frames

    def adapt_speech(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Turn features (B,F,E) with (B,) frame counts into columns as in training, by the input adapter alone."""
        assert self.input_adapter is not None, "this talker has no input adapter"
        heard: HeardBatch = self.input_adapter(features, lengths)
        return heard

    def listen(self, wave: Tensor, lengths: Tensor) -> list[Heard]:
        """Return what was recognised in each clip of (B,N) samples with (B,) lengths.

        Transcribing ears return text. Otherwise the hearing, or without one the input adapter, returns columns.
        """
        if self.ears is not None:
            return self.ears.listen([row[:length] for row, length in zip(wave, lengths.tolist(), strict=True)])
        features = self.encode_speech(wave, lengths)
        heard: HeardBatch = self.hearing(*features) if self.hearing is not None else self.adapt_speech(*features)
        return heard.clips()

    # ---- grid to embeddings

    def embed(self, batch: GridBatch, always: bool = False) -> Merged:
        """Look up the embeddings of all streams and merge them into one per step, by :attr:`route`.

        ``sum`` adds the audio rows to the text; pads are zero, so a text-only column is exactly the base model's.
        ``mean`` averages all S rows (as the paper and Mini-Omni do), with speech in all K audio rows.

        Args:
            batch: Grids.
            always: Whether to use every table even if no token needs it (see ``train.losses.LossModule``).
        """
        text = self._embed_text(batch.tokens[:, self.layout.text_row], always)  # (B,T,D)
        audio = self._embed_audio(batch.tokens[:, : self.layout.text_row], always)  # (B,T,W)
        speech = torch.zeros_like(text) if any(batch.speech) else None
        for row, spans in enumerate(batch.speech):
            for start, embeds in spans:
                end = start + embeds.shape[0]
                assert speech is not None
                speech[row, start:end] = embeds.to(text.dtype)
                # Speech takes the place of audio tokens in its columns.
                audio[row, start:end] = 0.0
        voice = None
        if self.speaker is not None and batch.speaker is not None and batch.speaker_mask is not None:
            voice = self.speaker(batch.speaker)[:, None, :] * batch.speaker_mask[:, :, None]
        return self.route.merge(self, Embedded(text, speech, audio, voice))

    def _embed_text(self, ids: Tensor, always: bool) -> Tensor:
        """Embed text tokens (B,T) to (B,T,D)."""
        layout = self.layout
        is_special = ids >= layout.text_vocab_size
        # Special ids are beyond the backbone's vocabulary; they look up row 0 here and are replaced below.
        embeds = self.backbone.embed_text(torch.where(is_special, 0, ids))
        # Most columns of a typed prompt have no special token; the tables, and their gradients, are then left alone.
        if not always and not bool(is_special.any()):
            return embeds
        special_ids = torch.where(is_special, ids - layout.text_vocab_size, 0)
        special = F.embedding(special_ids, self.special_tokens.text).to(embeds.dtype)
        special = self._zero_pads(special, special_ids, layout.pad_t - layout.text_vocab_size)
        return torch.where(is_special[..., None], special, embeds)

    def _embed_audio(self, ids: Tensor, always: bool) -> Tensor:
        """Embed audio tokens (B,K,T) to (B,T,W), summed over the streams."""
        layout = self.layout
        tables = self.special_tokens.audio
        # All streams are looked up in one flattened table, each at its own offset.
        stream = torch.arange(layout.num_audio_streams, device=ids.device)[:, None]
        is_code = ids < layout.codebook_size  # (B,K,T); ids above are special tokens
        special_ids = torch.where(is_code, 0, ids - layout.codebook_size)
        special = F.embedding(special_ids + stream * layout.audio_special_slots, tables.flatten(0, 1))
        special = self._zero_pads(special, special_ids, layout.pad_a - layout.codebook_size)
        if not always and not bool(is_code.any()):
            return special.sum(dim=1)
        code_ids = torch.where(is_code, ids, 0) + stream * layout.codebook_size
        codes = F.embedding(code_ids, self.audio_embeddings.weight.flatten(0, 1))
        return torch.where(is_code[..., None], codes, special).sum(dim=1)

    def _zero_pads(self, embeds: Tensor, special_ids: Tensor, pad: int) -> Tensor:
        # The paper's merge learns its pads; with `sum` they must add nothing.
        if self.merge == "mean":
            return embeds
        return embeds.masked_fill((special_ids == pad)[..., None], 0.0)

    # ---- logits and caches

    @property
    def route(self) -> Route:
        """Return the route by which this model's audio is fed back."""
        return route_of(self.output_adapter)

    def text_logits(self, normed: Tensor) -> Tensor:
        """Compute text logits (B,T,V) of states (B,T,D), with the special slots appended if text ends with eot."""
        logits = self.backbone.text_logits(normed)
        if self.special_tokens.text_head is None:
            return logits
        return torch.cat([logits, F.linear(normed, self.special_tokens.text_head.to(normed.dtype))], dim=-1)

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """Compute audio logits (B,K,T,C+specials) of (B,T,W)."""
        logits: Tensor = self.heads(hidden, AudioTables(self.audio_embeddings.weight, self.special_tokens.audio))
        return logits

    def new_cache(self, batch_size: int, max_steps: int, audio_rows: int) -> TalkCache:
        """Create empty caches for `batch_size` rows, of which the first `audio_rows` speak."""
        speaking = self.output_adapter.new_cache(audio_rows, max_steps) if audio_rows else None
        return TalkCache(self.backbone.new_cache(batch_size, max_steps), speaking)
