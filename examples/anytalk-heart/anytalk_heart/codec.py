"""The codec `heart`: one natural voice at 10 frames a second, 7 codes of 1,024 each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pydantic
import torch
from torch import Tensor

from anytalk import plugins
from anytalk.errors import WeightsError
from anytalk.plugins.codec_stream import StatefulStream, check_codes, decode_alike, pad_to_frames
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Codec, CodecStream
from anytalk.plugins.sources import resolve
from anytalk_heart.net import DecoderState, HeartNet, load
from anytalk_heart.quantiser import flat, places, unflat

__all__ = ["SHIPPED", "HeartCodec"]

SHIPPED = Path(__file__).resolve().parent / "heart.safetensors"
LONGEST_PAST = 12
"""Frames after which what was said before is forgotten by all but the phase of the pulses."""


class HeartCodec(Codec):
    """Every voice comes out in this one: what is kept is which phonemes are spoken, when, at which pitch and how loud.

    Offline and in streams the decoder takes one frame at a time, so that both are the same to the last bit.
    """

    licence = "Apache-2.0"

    class Options(plugins.Options):
        """Which weights."""

        weight_sources = ("model",)

        model: str | None = pydantic.Field(
            None, description="A weights file of examples/heart; the package's own when left out."
        )

    def __init__(self, net: HeartNet) -> None:
        super().__init__()
        sizes = net.sizes
        self.net = net.eval().requires_grad_(False)
        self.vq_strides = list(sizes.vq_strides)
        self.sample_rate_hz = 24_000
        self.num_streams = len(places(self.vq_strides))
        self.codebook_size = sizes.codebook_size
        self.samples_per_frame = sizes.samples_per_frame
        self.context_frames = (LONGEST_PAST, sizes.future_frames)
        self.decoder_prefixes = ("net.reader", "net.voice")

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> HeartCodec:
        """Load the weights.

        Raises:
            WeightsError: a file that is missing, damaged or of another kind.
        """
        path = SHIPPED if options.model is None else resolve(options.model, context.folder).path
        if not path.is_file():
            raise WeightsError(
                f"the weights of `heart` are missing: '{path}'",
                "train them: sh examples/heart/train.sh FOLDER, then copy FOLDER/heart.safetensors there",
            )
        try:
            net = load(path)
        except ValueError as error:
            raise WeightsError(
                f"'{path}' can't be read as weights of `heart`: {error}", "copy the file again"
            ) from None
        return cls(net).to(context.device)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        """(B,N) float32, 24 kHz -> (B,K,T) int64.

        Raises:
            AudioError: a wave of another shape.
        """
        padded = pad_to_frames(wave, self.samples_per_frame)
        if padded.numel() == 0:
            return torch.zeros((len(wave), self.num_streams, 0), dtype=torch.int64, device=wave.device)
        return self.encode_latents(self.net.heard(padded))

    @torch.no_grad()
    def encode_latents(self, latents: Tensor) -> Tensor:
        """(B,134,T) of :mod:`anytalk_heart.latents`, T of whole frames -> (B,K,T') int64."""
        return flat(self.net.codes(latents), self.vq_strides)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(B,K,T) int64 -> (B, T * samples_per_frame) float32.

        Raises:
            AudioError: codes of another shape or outside the codebook.
        """
        check_codes(codes, self.num_streams, self.codebook_size)
        if codes.numel() == 0:
            return torch.zeros((len(codes), codes.shape[-1] * self.samples_per_frame), device=codes.device)
        state = self.net.new_state(len(codes))
        pieces = [self.decode_frame(frame, state) for frame in _frames(codes)]
        return torch.cat([*pieces, self.decode_rest(state)], -1)

    @torch.no_grad()
    def decode_frame(self, codes: Tensor, state: DecoderState) -> Tensor:
        """(B,K,1) next frame -> (B,n) samples that are final; advances the state."""
        return self.net.next_samples(unflat(codes, self.vq_strides), state)

    @torch.no_grad()
    def decode_rest(self, state: DecoderState) -> Tensor:
        """(B,n): the samples held back, once the last frame has come."""
        nothing = torch.zeros((len(state.reading), 0), dtype=torch.int64, device=self.net.mean.device)
        return self.net.next_samples([nothing for _ in self.vq_strides], state, last=True)

    def new_stream(self) -> CodecStream:
        """A stream on the decoder's own state: each frame is computed once."""
        return StatefulStream(self, lambda: self.net.new_state(1), self._decode_frames, self.decode_rest)

    def _decode_frames(self, codes: Tensor, state: DecoderState) -> Tensor:
        return torch.cat([self.decode_frame(frame, state) for frame in _frames(codes)], -1)

    @torch.no_grad()
    def push_all(self, streams: Sequence[CodecStream], codes: Sequence[Tensor]) -> list[Tensor]:
        """See :meth:`anytalk.plugins.contracts.Codec.push_all`: streams past their start are decoded in one call."""
        waves: list[list[Tensor]] = [[self.net.mean.new_zeros((1, 0))] for _ in streams]
        for chunk in codes:
            check_codes(chunk, self.num_streams, self.codebook_size)
        for frame in range(max((chunk.shape[-1] for chunk in codes), default=0)):
            going = [row for row, chunk in enumerate(codes) if frame < chunk.shape[-1]]
            states = [cast("StatefulStream[DecoderState]", streams[row]).state for row in going]
            next_codes = [codes[row][..., frame : frame + 1] for row in going]
            made = decode_alike([_shape(state) for state in states], partial(self._decode_joined, next_codes, states))
            for row, wave in zip(going, made, strict=True):
                waves[row].append(wave)
        return [torch.cat(pieces, -1) for pieces in waves]

    def _decode_joined(self, codes: list[Tensor], states: list[DecoderState], rows: list[int]) -> list[Tensor]:
        """Decode the next frame (1,K,1) of some rows, whose states have one shape."""
        own = [states[row] for row in rows]
        joined = _joined(own)
        made = self.decode_frame(torch.cat([codes[row] for row in rows]), joined)
        _share_out(joined, own)
        return list(made.split(1))


def _frames(codes: Tensor) -> list[Tensor]:
    """(B,K,T) -> T times (B,K,1)."""
    return [codes[..., frame : frame + 1] for frame in range(codes.shape[-1])]


def _shape(state: DecoderState) -> tuple[int, ...]:
    """States of one shape can be decoded together; all that are past their first frames have it."""
    sound = state.sound
    kept = (sound.pitch, sound.pulses, sound.spectra)
    return (sound.to_drop, *(part.shape[-1] for part in (*kept, *state.voice.values())))


_ROWS = ("pitch", "phase", "pulses", "spectra", "overlap", "column")


def _joined(states: Sequence[DecoderState]) -> DecoderState:
    """States of one row each and of one shape as one."""
    if len(states) == 1:
        return states[0]
    parts = {name: torch.cat([getattr(state.sound, name) for state in states]) for name in _ROWS}
    voice = {layer: torch.cat([state.voice[layer] for state in states]) for layer in states[0].voice}
    reading = [past for state in states for past in state.reading]
    return DecoderState(reading, voice, type(states[0].sound)(**parts, to_drop=states[0].sound.to_drop))


def _share_out(joined: DecoderState, states: Sequence[DecoderState]) -> None:
    """Give each state its row back."""
    if len(states) == 1:
        return
    for row, state in enumerate(states):
        state.voice = {layer: kept[row : row + 1] for layer, kept in joined.voice.items()}
        state.sound.to_drop = joined.sound.to_drop
        for name in _ROWS:
            setattr(state.sound, name, getattr(joined.sound, name)[row : row + 1])
