"""A SNAC as something that can be trained, written and loaded by the plugin `snac`."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from anytalk.errors import ConfigError, WeightsError
from anytalk.files import written_whole
from anytalk.plugins.contracts import Codec
from anytalk.plugins.sources import resolve
from anytalk_adapters import snac_order
from anytalk_adapters.snac_codec import CONFIG_FILE, SNAC, WEIGHT_FILES, SnacCodec, load_snac

WEIGHTS_NAME = "snac"
"""Folder of the written weights."""
SNAC_16KHZ: dict[str, Any] = {
    "sampling_rate": 16_000,
    "encoder_dim": 32,
    "encoder_rates": [2, 4, 5, 8],
    "decoder_dim": 512,
    "decoder_rates": [8, 5, 4, 2],
    "attn_window_size": None,
    "codebook_size": 512,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
"""A small SNAC: 16 kHz, 12.5 frames per second, 7 x 512 codes."""


class Trainee:
    """A ``snac.SNAC`` while it is trained, as the `snac` plugin runs it.

    Args:
        model: The network.
        config: Its ``config.json``.

    Attributes:
        module: The network; its decoder's weights are named ``decoder...``.
        sample_rate_hz: Of the wave.
        samples_per_frame: Samples of one codec frame; waves are padded to whole ones.
        vq_strides: Latents per code of each codebook, coarse to fine.
        config: All sizes, as JSON can hold them.

    Raises:
        ConfigError: local attention, or rates of encoder and decoder that don't undo each other.
    """

    def __init__(self, model: SNAC, config: dict[str, Any]) -> None:
        if model.attn_window_size is not None:
            raise ConfigError(
                f"attn_window_size is {model.attn_window_size}: the snac codec can't stream local attention",
                'give "attn_window_size": null',
            )
        if math.prod(model.encoder_rates) != math.prod(model.decoder_rates):
            raise ConfigError(
                f"encoder_rates {model.encoder_rates} and decoder_rates {model.decoder_rates} don't undo each other",
                "both must multiply to the same number of samples per latent",
            )
        self.module, self.config = model, config
        self.sample_rate_hz = int(model.sampling_rate)
        self.samples_per_frame = int(model.hop_length) * int(model.vq_strides[0])
        self.vq_strides = [int(stride) for stride in model.vq_strides]

    @property
    def quantizer(self) -> Any:
        """The ``snac.vq.ResidualVectorQuantize``."""
        return self.module.quantizer

    @property
    def num_streams(self) -> int:
        """K."""
        return sum(snac_order.codes_per_frame(self.vq_strides))

    def latents(self, wave: Tensor) -> Tensor:
        """(B,N) float32, N whole frames -> (B,W,T) float32."""
        found: Tensor = self.module.encoder(wave[:, None])
        return found

    def sound(self, latents: Tensor) -> Tensor:
        """(B,W,T) float32 -> (B,N) float32, differentiable; with the decoder's own noise from torch's generator."""
        wave: Tensor = self.module.decoder(latents)
        return wave[:, 0]

    def write(self, folder: Path) -> Path:
        """Write a folder with ``config.json`` and ``model.safetensors`` in float32, whole or not at all -> its path."""
        path = folder / WEIGHTS_NAME
        with written_whole(path) as partial:
            partial.mkdir()
            (partial / CONFIG_FILE).write_text(json.dumps(self.config, indent=1), encoding="utf-8")
            state = {name: value.contiguous() for name, value in self.module.state_dict().items()}
            safetensors.torch.save_file(state, partial / WEIGHT_FILES[0])
        return path


def load_codec(spec: str) -> Codec:
    """Load written weights as the plugin does, frozen (WeightsError: weights that can't be read)."""
    return SnacCodec(load_snac(resolve(spec)))


def make_trainee(config: dict[str, Any] | None, init: str | None, seed: int) -> Trainee:
    """Make a network to train, on the CPU in float32.

    Args:
        config: Sizes over those of :data:`SNAC_16KHZ`.
        init: Weights to go on from, as the plugin's option `model` names them; they bring their own sizes.
        seed: Of fresh weights.

    Raises:
        ConfigError: sizes that don't fit, or sizes beside `init`.
        WeightsError: weights that can't be read.
    """
    if init is not None:
        if config is not None:
            raise ConfigError(f"'{init}' brings its own sizes, --config gives others", "leave one of the two out")
        return _from_weights(init)
    torch.manual_seed(seed)
    return _fresh(config or {})


def _from_weights(init: str) -> Trainee:
    source = resolve(init)
    if source.is_hub:
        raise WeightsError(
            f"'{init}' is no local folder", "download its config.json and pytorch_model.bin into a folder first"
        )
    return Trainee(load_snac(source), json.loads((source.path / CONFIG_FILE).read_text(encoding="utf-8")))


def _fresh(config: dict[str, Any]) -> Trainee:
    names = [*SNAC_16KHZ, "latent_dim"]
    wrong = sorted(config.keys() - set(names))
    if wrong:
        raise ConfigError(f"a SNAC has no {', '.join(wrong)}", f"its sizes are: {', '.join(names)}")
    full = SNAC_16KHZ | config
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch renames weight_norm now and then
            made = Trainee(SNAC(**full), full)
        snac_order.codes_per_frame(made.vq_strides)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        raise ConfigError(f"these sizes make no SNAC: {error}", "see docs/codec.md for sizes that do") from None
    return made
