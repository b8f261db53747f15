"""Stage 1: hibari's decoder with less of the future, taught by the uncut one on the same columns.

    python examples/heart/train_decoder.py SPEECH OUT --steps 1500

It begins with hibari's own weights, each convolution fitted to what it still sees.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from anytalk_heart import latents as lat
from anytalk_heart.net import HeartSizes, VoiceDecoder
from anytalk_heart.sound import Sound
from crops import Crops
from cut import cut_by_least_squares
from loop import Stage
from losses import sound_loss, spectra_loss
from speech import Utterance, read
from teacher import Teacher
from torch import Tensor

UNCUT = 27
FITTED_ON = 60
"""Texts; some 200 seconds."""
BEFORE, AFTER = 24, 14
"""Latents on either side of a piece that the decoders only look at."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--future", type=int, default=14, help="Columns of 12.5 ms that it still sees ahead.")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    whole = uncut(Teacher().decoder())
    speech = read(asked.speech, held_out=False)
    cut = fitted(whole, HeartSizes(voice_future=asked.future), speech[:FITTED_ON])
    crops = Crops(speech, BEFORE + 48 + AFTER, asked.batch)
    stage = Stage(asked.out, f"decoder-{asked.future}", {"voice": cut}, asked.steps, asked.learning_rate)
    stage.run(Distillation(whole, cut, crops))


def uncut(weights: dict[str, np.ndarray]) -> VoiceDecoder:
    """hibari's decoder as it is."""
    whole = VoiceDecoder(HeartSizes(voice_future=UNCUT))
    whole.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    return whole.eval().requires_grad_(False)


def fitted(whole: VoiceDecoder, sizes: HeartSizes, speech: Sequence[Utterance]) -> VoiceDecoder:
    """The same with less of the future, fitted by least squares on some speech."""
    cut = VoiceDecoder(sizes)
    pieces = [lat.columns(lat.from_hibari(torch.from_numpy(np.array(one.latents))).T[None]) for one in speech]
    cut_by_least_squares(whole, cut, pieces)
    return cut


class Distillation:
    """One step: the same columns through both decoders.

    Args:
        whole: The uncut decoder.
        cut: What learns.
        crops: Pieces of speech.
    """

    def __init__(self, whole: VoiceDecoder, cut: VoiceDecoder, crops: Crops) -> None:
        self.whole, self.cut, self.crops, self.sound = whole, cut, crops, Sound()

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        columns = lat.columns(self.crops.batch(step).latents)
        with torch.no_grad():
            wanted = self.whole(columns, {}, True)[..., 2 * BEFORE : -2 * AFTER]
        made = self.cut(columns, {}, True)[..., 2 * BEFORE : -2 * AFTER]
        loss, parts = spectra_loss(made, wanted)
        pitch = lat.pitch_hz(columns)[:, 2 * BEFORE : -2 * AFTER]
        heard, meant = (self.sound(one, pitch, self.sound.new_state(len(one)), True) for one in (made, wanted))
        sound = sound_loss(heard, meant)
        return loss + sound, {**parts, "sound": sound.item()}


if __name__ == "__main__":
    main()
