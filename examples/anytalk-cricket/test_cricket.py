import math

import torch

from anytalk.plugins import PartRef
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_codec


def test_cricket_keeps_the_contract() -> None:
    check_codec("cricket")
    check_codec("cricket", options={"num_tones": 1})


def test_a_low_tone_survives() -> None:
    codec = default_registry().build("codec", PartRef(name="cricket"))
    wave = 0.3 * torch.sin(2 * math.pi * 440 / codec.sample_rate_hz * torch.arange(8000))[None]
    error = (codec.decode(codec.encode(wave)) - wave)[:, codec.samples_per_frame :]
    assert 10 * math.log10(float(wave.square().mean() / error.square().mean())) > 20
