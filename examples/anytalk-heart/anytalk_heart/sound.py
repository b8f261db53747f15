"""Spectra to sound, in pieces: pulses at the pitch, shaped noise and a free part, one inverse Fourier transform.

After ``hibari/dsp.py`` of hibari-tts (Apache-2.0), written anew for streams and for gradients::

    S = exp(lh) e^{i pi tanh(theta)} STFT(pulses(f0)) + exp(ln) Z + exp(lr) e^{i phi}

A column is 300 samples. Z is a table that is drawn once and read by the column's number, so a stream sounds as the
whole does. What differs from hibari: silence comes before the first column and after the last, where it reflects.

Letters: B batch, T columns, F frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["HOP", "N_FFT", "RATE_HZ", "Sound", "SoundState"]

RATE_HZ, N_FFT, HOP = 24_000, 1200, 300
NUM_FREQUENCIES = N_FFT // 2 + 1
BEFORE, AFTER = 2, 1
"""A window reads the pulses of two columns before its own and one after (its centre is its column's first sample)."""
LOWEST_HZ, HIGHEST_HZ = 40.0, 11_000.0
NOISE_COLUMNS = 797
MOST_LOG = 7.0


@dataclass
class SoundState:
    """What a stream remembers.

    Attributes:
        pitch: (B,n) pitch of columns whose pulses aren't made yet, one before them.
        phase: (B,1) float64, turns of the pulse train so far.
        pulses: (B, n * 300) pulses that windows still read.
        spectra: (B, 5 * 601, n) columns whose pulses aren't there yet.
        overlap: (B, 900) sum of the windows that reach beyond what is finished.
        column: (B,) number of the next column, which chooses the noise.
        to_drop: Samples that still must be dropped at the start.
    """

    pitch: Tensor
    phase: Tensor
    pulses: Tensor
    spectra: Tensor
    overlap: Tensor
    column: Tensor
    to_drop: int


class Sound(nn.Module):
    """The part without weights."""

    window: Tensor
    noise: Tensor
    rising: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        dice = torch.Generator().manual_seed(0)
        noise = torch.randn((NOISE_COLUMNS, NUM_FREQUENCIES, 2), generator=dice)
        self.register_buffer("noise", noise, persistent=False)
        place = ((torch.arange(HOP) + 0.5) / HOP - 0.5) % 1.0
        self.register_buffer("rising", place, persistent=False)

    def new_state(self, batch_size: int) -> SoundState:
        """The state before the first column."""
        zeros = self.window.new_zeros
        return SoundState(
            pitch=zeros((batch_size, 0)),
            phase=zeros((batch_size, 1), dtype=torch.float64),
            pulses=zeros((batch_size, BEFORE * HOP)),
            spectra=zeros((batch_size, 5 * NUM_FREQUENCIES, 0)),
            overlap=zeros((batch_size, N_FFT - HOP)),
            column=torch.zeros(batch_size, dtype=torch.int64, device=self.window.device),
            to_drop=N_FFT // 2,
        )

    def forward(self, spectra: Tensor, pitch_hz: Tensor, state: SoundState, last: bool) -> Tensor:
        """Next columns to the samples that are final now; advances the state.

        Args:
            spectra: (B, 5 * 601, T) outputs of the voice decoder.
            pitch_hz: (B,T') pitch of further columns, at least as far as the spectra go; 0 where unvoiced.
            state: Of this stream.
            last: Nothing follows.
        """
        state.pulses = torch.cat([state.pulses, self._more_pulses(pitch_hz, state, last)], -1)
        waiting = torch.cat([state.spectra, spectra], -1)
        if last:
            state.pulses = F.pad(state.pulses, (0, AFTER * HOP))
        ready = min(waiting.shape[-1], state.pulses.shape[-1] // HOP - BEFORE - AFTER)
        if ready > 0:
            used = state.pulses[:, : (ready + BEFORE + AFTER) * HOP]
            wave = self._overlapped(self.spectrum(waiting[..., :ready], used, state.column), state)
            state.pulses = state.pulses[:, ready * HOP :]
            state.column = state.column + ready
        else:
            ready, wave = 0, spectra.new_zeros((len(spectra), 0))
        state.spectra = waiting[..., ready:]
        if last:
            wave = torch.cat([wave, state.overlap[:, : N_FFT // 2] / self._envelope()[: N_FFT // 2]], -1)
        dropped = min(state.to_drop, wave.shape[-1])
        state.to_drop -= dropped
        return wave[:, dropped:]

    def _more_pulses(self, pitch_hz: Tensor, state: SoundState, last: bool) -> Tensor:
        """(B, n * 300): every harmonic below 11 kHz at one amplitude, silence where the pitch is under 40 Hz."""
        if pitch_hz.shape[-1] and not state.pitch.shape[-1]:
            state.pitch = pitch_hz[:, :1]
        known = torch.cat([state.pitch, pitch_hz], -1)
        if last and known.shape[-1]:
            known = torch.cat([known, known[:, -1:]], -1)
        if known.shape[-1] < 3:
            state.pitch = known
            return known.new_zeros((len(known), 0))
        state.pitch = known[:, -2:]
        half = HOP // 2
        before, here, after = (known[:, start : known.shape[-1] - 2 + start, None] for start in range(3))
        rising = self.rising
        first = before * (1 - rising[:half]) + here * rising[:half]
        second = here * (1 - rising[half:]) + after * rising[half:]
        hz = torch.cat([first, second], -1).flatten(1)
        voiced = hz > LOWEST_HZ
        hz = hz.clamp(min=LOWEST_HZ)
        turns = hz.double().cumsum(-1) / RATE_HZ + state.phase
        state.phase = turns[:, -1:] % 1.0
        angle = ((turns % 1.0) * (2 * math.pi)).float()
        harmonics = (HIGHEST_HZ / hz).floor() + 0.5
        below = 2 * (angle * 0.5).sin()
        steep = below.abs() <= 2e-3  # the limit of sin((H + 1/2) t) / (2 sin(t / 2))
        train = torch.where(steep, harmonics, (harmonics * angle).sin() / torch.where(steep, 1.0, below)) - 0.5
        return torch.where(voiced, train, 0.0)

    def spectrum(self, spectra: Tensor, pulses: Tensor, column: Tensor) -> Tensor:
        """(B, 5 * 601, T), (B, (T + 3) * 300) and (B,) -> (B,T,601) complex."""
        harmonic, theta, breath, rest, phi = spectra.transpose(1, 2).chunk(5, -1)
        windows = pulses.unfold(-1, N_FFT, HOP) * (self.window * (4 / N_FFT))
        voice = torch.fft.rfft(windows) * torch.polar(harmonic.clamp(max=MOST_LOG).exp(), math.pi * theta.tanh())
        place = (column[:, None] + torch.arange(spectra.shape[-1], device=column.device)) % NOISE_COLUMNS
        noise = torch.view_as_complex(self.noise[place]) * breath.clamp(max=MOST_LOG).exp()
        whole: Tensor = voice + noise + torch.polar(rest.clamp(max=MOST_LOG).exp(), phi)
        return whole

    def _envelope(self) -> Tensor:
        """(900,) what squared windows add up to where every column is there."""
        squares = self.window.square().view(4, HOP)
        return squares.sum(0).repeat(3)

    def _overlapped(self, spectrum: Tensor, state: SoundState) -> Tensor:
        """(B,T,601) -> (B, T * 300) finished samples."""
        frames = (torch.fft.irfft(spectrum, N_FFT) * self.window).transpose(1, 2)
        total = (frames.shape[-1] - 1) * HOP + N_FFT
        laid = F.fold(frames, (1, total), (1, N_FFT), stride=(1, HOP))[:, 0, 0]
        laid = laid + F.pad(state.overlap, (0, total - state.overlap.shape[-1]))
        cut = frames.shape[-1] * HOP
        state.overlap = laid[:, cut:]
        return laid[:, :cut] / self._envelope()[:HOP].repeat(frames.shape[-1])
