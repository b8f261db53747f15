"""Implements the speech encoder ``whisper_states``: Whisper's features, and its decoder's states at each moment.

Whisper's decoder knows which words a sound may be, from 680,000 hours of speech, and an input adapter that is trained
on a few hours of features has to learn that again. Here each group of frames is given to the decoder as if a transcript
began there: its self-attention sees only the tokens that begin every transcript, its cross-attention only the frames
around the group. The state that would predict the first token then says which word is heard at that place. All groups
run at once, so nothing is decoded token by token. New here; reading states in the middle of a model with its own last
layer is known as the logit lens.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk import plugins
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import SpeechEncoder, torch_dtype
from anytalk_adapters.whisper_attention import attend, heads_of, projected
from anytalk_adapters.whisper_encoder import WhisperEncoder, cast_layers
from anytalk_adapters.whisper_weights import load_whisper, writer_tokenizer

__all__ = ["STATES_SCALE", "DecoderStates", "WhisperStatesEncoder"]

STATES_SCALE: float = 0.1
"""Factor of the states: they come out of their norm about ten times as large as the features."""


class DecoderStates(nn.Module):
    """Computes the state of Whisper's decoder, after its last norm, that would predict a transcript's first token.

    Args:
        decoder: A ``whisper.model.TextDecoder``.
        prompt: Tokens that begin every transcript, in English and without times.
        group: Frames of a group.
        window: Frames before and after the middle of a group that cross-attention sees.
    """

    def __init__(self, decoder: nn.Module, prompt: tuple[int, ...], group: int, window: int) -> None:
        super().__init__()
        self.decoder: Any = decoder
        self.prompt = list(prompt)
        self.group = group
        self.window = window

    def forward(self, features: Tensor) -> Tensor:
        """Return the states (B,ceil(F/group),E) for Whisper's features (B,F,E), all of which are valid."""
        features = features.to(self.decoder.blocks[0].attn.query.weight.dtype)
        prompt = (
            self.decoder.token_embedding.weight[self.prompt] + self.decoder.positional_embedding[: len(self.prompt)]
        )
        num_groups = -(-features.shape[1] // self.group)
        # All but the last token of the prompt are the same for all groups, and only the last one's states differ.
        x = torch.cat([prompt[:-1], prompt[-1:].expand(num_groups, -1)])
        x = x.to(features.dtype).expand(len(features), -1, -1)  # (B,C+G,E)
        shared = len(self.prompt) - 1
        near = self._near(features.shape[1], shared, num_groups).to(features.device)
        log_counts = torch.zeros_like(near, dtype=features.dtype).masked_fill(~near, -torch.inf)
        for block in self.decoder.blocks:
            x = x + _attend_alone(block.attn, block.attn_ln(x), shared)
            heard = projected(block.cross_attn, features)
            x = x + attend(block.cross_attn, block.cross_attn_ln(x), *heard, log_counts)
            x = x + block.mlp(block.mlp_ln(x))
        states: Tensor = self.decoder.ln(x[:, shared:])
        return states

    def _near(self, num_frames: int, shared: int, num_groups: int) -> Tensor:
        """Return (C+G,F) bool: which frames a position sees; the shared ones see all."""
        middles = torch.arange(num_groups) * self.group + (self.group - 1) / 2
        near = (torch.arange(num_frames)[None] - middles[:, None]).abs() <= self.window
        # The last group may reach beyond the clip, whose last frame it then sees.
        near[-1, -1] = True
        return torch.cat([torch.ones(shared, num_frames, dtype=torch.bool), near])


class WhisperStatesEncoder(SpeechEncoder):
    """Returns a row for each group of frames: the frames' features side by side, then the state of the decoder.

    It computes with the weights as they are in every arithmetic, because nobody has measured what 8 bits would cost.

    Args:
        encoder: Whisper's encoder.
        states: Whisper's decoder.
    """

    licence = "MIT"

    class Options(plugins.Options):
        weight_sources = ("model",)

        model: str = Field(
            description="Whisper name (tiny.en ... turbo), .pt file, CTranslate2 folder or model.bin, or package:..."
        )
        group: int = Field(3, ge=1, description="Frames in a row of features; 3 gives 16.7 rows a second.")
        window: int = Field(7, ge=1, description="Frames before and after that the decoder hears; 7 are 0.14 s.")

    def __init__(self, encoder: WhisperEncoder, states: DecoderStates) -> None:
        super().__init__()
        self.encoder = encoder
        self.states = states

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Load the model.

        Raises:
            WeightsError: The weights can't be found or read.
        """
        whisper = load_whisper(options.model, context.folder)
        cast_layers(whisper, torch_dtype(context.dtype))
        prompt = writer_tokenizer(whisper).sot_sequence_including_notimestamps
        states = DecoderStates(whisper.decoder, prompt, options.group, options.window)
        return cls(WhisperEncoder(whisper.encoder), states).to(context.device).eval()

    @property
    def sample_rate_hz(self) -> int:
        """Return 16000, Whisper's only rate."""
        return self.encoder.sample_rate_hz

    @property
    def frame_rate_hz(self) -> float:
        """Return 50 divided by the frames of a group."""
        return self.encoder.frame_rate_hz / self.states.group

    @property
    def width(self) -> int:
        """Return the width of a group's features and of the state after them."""
        return (self.states.group + 1) * self.encoder.width

    @property
    def max_duration_s(self) -> float:
        """Return 30: Whisper has no more positions."""
        return self.encoder.max_duration_s

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B,N) float32 at 16 kHz, right-padded, with (B,) lengths: (B,G,width) float32, 0 in padding, and (B,).

        Raises:
            AudioError: A row has no samples, or more than 30 s.
        """
        frames, counts = self.encoder(wave, lengths)
        group = self.states.group
        num_groups = torch.div(counts + group - 1, group, rounding_mode="floor")
        found = frames.new_zeros(len(frames), int(num_groups.max()), self.width)
        # Rows of one length run together, so that no row sees another one's padding.
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero()[:, 0]
            own = frames[rows, :count]
            states = self.states(own).float()
            found[rows, : states.shape[1]] = torch.cat([grouped(own, group), STATES_SCALE * states], dim=-1)
        return found, num_groups


def grouped(frames: Tensor, group: int) -> Tensor:
    """Lay the frames of each group of (B,F,E) side by side: (B,ceil(F/group),group*E), zero after the last frame."""
    padded = F.pad(frames, (0, 0, 0, -frames.shape[1] % group))
    return padded.reshape(len(padded), -1, group * frames.shape[2])


def _attend_alone(layer: Any, x: Tensor, shared: int) -> Tensor:
    """Run self-attention on (B,C+G,E): the C shared positions are causal, each other one sees them and itself."""
    query = heads_of(layer, layer.query(x))
    key, value = projected(layer, x)
    begun = F.scaled_dot_product_attention(
        query[:, :, :shared], key[:, :, :shared], value[:, :, :shared], is_causal=True
    )
    asked, own_key, own_value = query[:, :, shared:], key[:, :, shared:], value[:, :, shared:]
    to_shared = asked @ key[:, :, :shared].transpose(-1, -2)
    to_itself = (asked * own_key).sum(dim=-1, keepdim=True)
    share = (torch.cat([to_shared, to_itself], dim=-1) * query.shape[-1] ** -0.5).softmax(dim=-1)
    alone = share[..., :shared] @ value[:, :, :shared] + share[..., shared:] * own_value
    out: Tensor = layer.out(torch.cat([begun, alone], dim=2).transpose(1, 2).flatten(2))
    return out
