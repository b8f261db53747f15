"""The two kinds of codec as things that can be trained: the plugins' own networks behind one face."""

from __future__ import annotations

import json
import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor, nn

from anytalk.errors import ConfigError, UnknownNameError, WeightsError, did_you_mean
from anytalk.files import written_whole
from anytalk.plugins.contracts import Codec
from anytalk.plugins.sources import resolve
from anytalk_adapters import snac_order
from anytalk_adapters.snac_codec import CONFIG_FILE, SNAC, WEIGHT_FILES, SnacCodec, load_snac
from anytalk_adapters.spectral_codec import SpectralCodec, SpectralNet, SpectralSizes, load_spectral, save_spectral

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
"""A small SNAC in the token format of the shipped spectral codec: 16 kHz, 12.5 frames per second, 7 x 512 codes."""


class Trainee(ABC):
    """A codec's network while it is trained.

    Args:
        module: The network; it owns ``quantizer``, and its decoder's weights are named ``decoder...``.

    Attributes:
        sample_rate_hz: Of the wave.
        samples_per_frame: Samples of one codec frame; waves are padded to whole ones.
        vq_strides: Latents per code of each codebook, coarse to fine.
    """

    kind: ClassVar[str]
    weights_name: ClassVar[str]
    sample_rate_hz: int
    samples_per_frame: int
    vq_strides: list[int]

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    def quantizer(self) -> Any:
        """The ``snac.vq.ResidualVectorQuantize``."""
        return self.module.quantizer

    @property
    def num_streams(self) -> int:
        """K."""
        return sum(snac_order.codes_per_frame(self.vq_strides))

    @abstractmethod
    def latents(self, wave: Tensor) -> Tensor:
        """(B,N) float32, N whole frames -> (B,W,T) float32."""

    @abstractmethod
    def sound(self, latents: Tensor) -> Tensor:
        """(B,W,T) float32 -> (B,N) float32, differentiable."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All sizes, as JSON can hold them."""

    @abstractmethod
    def write(self, folder: Path) -> Path:
        """Write what the plugin loads, whole or not at all -> its path, the plugin's option `model`."""

    @staticmethod
    @abstractmethod
    def load(spec: str) -> Codec:
        """The plugin itself from written weights, frozen.

        Raises:
            WeightsError: weights that can't be read.
        """


class SpectralTrainee(Trainee):
    """The network of the `spectral` plugin."""

    kind = "spectral"
    weights_name = "spectral.safetensors"

    def __init__(self, net: SpectralNet) -> None:
        super().__init__(net)
        self.net = net
        self.sample_rate_hz = net.sizes.sample_rate_hz
        self.samples_per_frame = net.sizes.samples_per_frame
        self.vq_strides = list(net.sizes.vq_strides)

    def latents(self, wave: Tensor) -> Tensor:
        """See the base."""
        return self.net.latents(wave)

    def sound(self, latents: Tensor) -> Tensor:
        """See the base."""
        state = self.net.new_state(len(latents))
        return torch.cat([self.net.next_samples(latents, state), self.net.last_samples(state)], -1)

    def config(self) -> dict[str, Any]:
        """See the base."""
        return asdict(self.net.sizes)

    def write(self, folder: Path) -> Path:
        """One file of half-precision weights."""
        path = folder / self.weights_name
        with written_whole(path) as partial:
            save_spectral(self.net, partial)
        return path

    @staticmethod
    def load(spec: str) -> Codec:
        """See the base."""
        return SpectralCodec(load_spectral(resolve(spec)))


class SnacTrainee(Trainee):
    """A ``snac.SNAC``, as the `snac` plugin runs it."""

    kind = "snac"
    weights_name = "snac"

    def __init__(self, model: SNAC, config: dict[str, Any]) -> None:
        super().__init__(model)
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
        self._config = config
        self.sample_rate_hz = int(model.sampling_rate)
        self.samples_per_frame = int(model.hop_length) * int(model.vq_strides[0])
        self.vq_strides = [int(stride) for stride in model.vq_strides]

    def latents(self, wave: Tensor) -> Tensor:
        """See the base."""
        found: Tensor = self.module.encoder(wave[:, None])
        return found

    def sound(self, latents: Tensor) -> Tensor:
        """See the base; with the decoder's own noise from torch's generator."""
        wave: Tensor = self.module.decoder(latents)
        return wave[:, 0]

    def config(self) -> dict[str, Any]:
        """See the base."""
        return self._config

    def write(self, folder: Path) -> Path:
        """A folder with ``config.json`` and ``model.safetensors`` in float32."""
        path = folder / self.weights_name
        with written_whole(path) as partial:
            partial.mkdir()
            (partial / CONFIG_FILE).write_text(json.dumps(self._config, indent=1), encoding="utf-8")
            state = {name: value.contiguous() for name, value in self.module.state_dict().items()}
            safetensors.torch.save_file(state, partial / WEIGHT_FILES[0])
        return path

    @staticmethod
    def load(spec: str) -> Codec:
        """See the base."""
        return SnacCodec(load_snac(resolve(spec)))


KINDS: dict[str, type[Trainee]] = {"spectral": SpectralTrainee, "snac": SnacTrainee}


def check_kind(kind: str) -> type[Trainee]:
    """The class of a kind.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if kind not in KINDS:
        raise UnknownNameError(
            f"unknown kind of codec '{kind}'{did_you_mean(kind, list(KINDS))}", f"there are: {', '.join(KINDS)}"
        )
    return KINDS[kind]


def make_trainee(kind: str, config: dict[str, Any] | None, init: str | None, seed: int) -> Trainee:
    """A network to train, on the CPU in float32.

    Args:
        kind: ``"spectral"`` or ``"snac"``.
        config: Sizes; None takes the shipped ones (or, for snac, :data:`SNAC_16KHZ`).
        init: Weights to go on from, as the plugin's option `model` names them; they bring their own sizes.
        seed: Of fresh weights.

    Raises:
        UnknownNameError: another kind.
        ConfigError: sizes that don't fit, or sizes beside `init`.
        WeightsError: weights that can't be read.
    """
    check_kind(kind)
    if init is not None:
        if config is not None:
            raise ConfigError(f"'{init}' brings its own sizes, --config gives others", "leave one of the two out")
        return _from_weights(kind, init)
    torch.manual_seed(seed)
    return _fresh(kind, config or {})


def _from_weights(kind: str, init: str) -> Trainee:
    source = resolve(init)
    if kind == "spectral":
        return SpectralTrainee(load_spectral(source))
    if source.is_hub:
        raise WeightsError(
            f"'{init}' is no local folder", "download its config.json and pytorch_model.bin into a folder first"
        )
    return SnacTrainee(load_snac(source), json.loads((source.path / CONFIG_FILE).read_text(encoding="utf-8")))


def _fresh(kind: str, config: dict[str, Any]) -> Trainee:
    names = [f.name for f in fields(SpectralSizes)] if kind == "spectral" else [*SNAC_16KHZ, "latent_dim"]
    wrong = sorted(config.keys() - set(names))
    if wrong:
        raise ConfigError(f"a {kind} codec has no {', '.join(wrong)}", f"its sizes are: {', '.join(names)}")
    try:
        if kind == "spectral":
            made: Trainee = SpectralTrainee(SpectralNet(SpectralSizes(**config)))
        else:
            full = SNAC_16KHZ | config
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch renames weight_norm now and then
                made = SnacTrainee(SNAC(**full), full)
        snac_order.codes_per_frame(made.vq_strides)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        raise ConfigError(f"these sizes make no {kind} codec: {error}", "see docs/codec.md for sizes that do") from None
    return made
