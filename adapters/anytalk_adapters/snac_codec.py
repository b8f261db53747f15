"""Implements the codec ``snac``, the reference: three codebooks at rates 1:2:4 become seven streams."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any, Literal

import pydantic
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from anytalk import plugins
from anytalk.errors import ConfigError, WeightsError
from anytalk.plugins.codec_stream import WindowedStream, check_codes, pad_to_frames
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Codec, CodecStream
from anytalk.plugins.sources import ModelSource, random_shapes, resolve
from anytalk_adapters import snac_order
from anytalk_adapters.snac_format import snac_token_format
from anytalk_adapters.snac_noise import decode_latents, decoder_context_frames
from anytalk_adapters.snac_package import SNAC
from anytalk_adapters.snac_stream import SnacStream, SnacWeights

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
SNAC_24KHZ: dict[str, Any] = {
    "sampling_rate": 24000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
"""The content of config.json of hubertsiuzdak/snac_24khz."""
_TOY = SNAC_24KHZ | {"encoder_dim": 4, "decoder_dim": 64, "codebook_size": 64}


class SnacCodec(Codec):
    """Wraps SNAC (Siuzdak 2024; hubertsiuzdak/snac) without local attention, such as the 24 kHz speech model.

    At 24 kHz it has 7 streams of 4096 codes and 2048 samples (85.3 ms) per frame, in the order of
    :mod:`anytalk_adapters.snac_order`. Streaming is exact and holds back 2.3 frames, 198 ms
    (:mod:`anytalk_adapters.snac_stream`).

    Args:
        model: A ``snac.SNAC``; it is frozen.
        noise_seed: Seed of the decoder's noise; None adds none.
        stream_context_frames: The most frames that :meth:`new_stream` uses on each side; None for all.
    """

    licence = "MIT"

    class Options(plugins.Options):
        weight_sources = ("model",)

        model: str = pydantic.Field(
            "hubertsiuzdak/snac_24khz",
            description="Hub id, or a folder with config.json and model.safetensors or pytorch_model.bin; random:24khz "
            "has its shapes, to measure speed.",
        )
        noise: Literal["seeded", "off"] = pydantic.Field(
            "seeded", description="Noise of the decoder: seeded and repeatable, or off (slightly duller)."
        )
        seed: int = pydantic.Field(0, ge=0, description="Seed of that noise.")
        stream_context_frames: int | None = pydantic.Field(
            None,
            ge=0,
            description="At most so many frames of context on each side when streaming; fewer is sooner and cheaper "
            "but not exact at the joints (1 is a usable compromise). Unset: exact.",
        )

    def __init__(self, model: SNAC, noise_seed: int | None = 0, stream_context_frames: int | None = None) -> None:
        super().__init__()
        if model.attn_window_size is not None:
            raise ConfigError(
                "this SNAC model has local attention, which can't be streamed", "use hubertsiuzdak/snac_24khz"
            )
        self.model = model.eval().requires_grad_(False)
        self.noise_seed = noise_seed
        self._stream_weights: tuple[object, SnacWeights] | None = None
        self.vq_strides = [int(stride) for stride in model.vq_strides]
        self.sample_rate_hz = int(model.sampling_rate)
        self.num_streams = sum(snac_order.codes_per_frame(self.vq_strides))
        self.codebook_size = int(model.codebook_size)
        self.samples_per_frame = int(model.hop_length) * self.vq_strides[0]
        self.decoder_prefixes = ("model.decoder.",)
        self.context_frames = decoder_context_frames(list(model.decoder_rates), self.vq_strides[0])
        most = max(self.context_frames) if stream_context_frames is None else stream_context_frames
        self.stream_context_frames = (min(self.context_frames[0], most), min(self.context_frames[1], most))

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> SnacCodec:
        """Load the model from a folder or the hub.

        Raises:
            WeightsError: Files are missing, damaged or not SNAC's.
            ConfigError: The model has local attention.
        """
        shapes = random_shapes(options.model, {"24khz": SNAC_24KHZ, "toy": _TOY})
        if shapes is None:
            model = load_snac(resolve(options.model, context.folder))
        else:
            # Random weights are seeded without changing the caller's random state.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = SNAC(**shapes)
        seed = options.seed if options.noise == "seeded" else None
        return cls(model, seed, options.stream_context_frames).to(context.device)

    @property
    def token_format(self) -> str:
        """Return the format's name, ``"snac/24000/7x4096"`` for the 24 kHz model.

        It has no digest, because data sets of SNAC codes carry none: a model of this shape is assumed to be the
        published one. A talker's codec and the codes of `prepare` are identified by :attr:`fingerprint`.
        """
        return snac_token_format(self.sample_rate_hz, self.num_streams, self.codebook_size)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        """Encode a wave (B,N) float32 into codes (B,K,T) int64 (AudioError: the wave has another shape)."""
        padded = pad_to_frames(wave, self.samples_per_frame)
        if padded.numel() == 0:
            return torch.zeros((len(wave), self.num_streams, 0), dtype=torch.int64, device=wave.device)
        return snac_order.flatten(self.model.encode(padded[:, None]), self.vq_strides)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (B,K,T) int64 into a wave (B, T * samples_per_frame) float32.

        Raises:
            AudioError: The codes have another shape or lie outside the codebook.
        """
        return self.decode_window(codes, 0)

    @torch.no_grad()
    def decode_window(self, codes: Tensor, first_frame: int) -> Tensor:
        """Decode frames that begin at `first_frame` of an answer, which decides their noise; see :meth:`decode`."""
        check_codes(codes, self.num_streams, self.codebook_size)
        num_frames = codes.shape[-1]
        if codes.numel() == 0:
            return torch.zeros((len(codes), num_frames * self.samples_per_frame), device=codes.device)
        latents = self.model.quantizer.from_codes(snac_order.unflatten(codes, self.vq_strides))
        return decode_latents(self.model.decoder, latents, num_frames, first_frame, self.noise_seed)[:, 0]

    def new_stream(self) -> CodecStream:
        """Return an exact stream, or one over windows of codes if `stream_context_frames` limits the context."""
        if self.stream_context_frames == self.context_frames:
            return SnacStream(self._folded())
        return WindowedStream(self.decode_window, self.num_streams, self.samples_per_frame, self.stream_context_frames)

    def _folded(self) -> SnacWeights:
        """Return the streams' weights, folded again if the model's have changed or moved."""
        # Each tensor counts its in-place changes in `_version`, which optimizers and `load_state_dict` raise.
        tensors = list(self.model.parameters())
        state = (tensors[0].device, tensors[0].dtype, self.noise_seed, sum(t._version for t in tensors))
        if self._stream_weights is None or self._stream_weights[0] != state:
            self._stream_weights = (state, SnacWeights(self.model, self.noise_seed))
        return self._stream_weights[1]


def load_snac(source: ModelSource) -> SNAC:
    """Load a SNAC model from a folder or the hub, on the CPU in float32.

    Raises:
        WeightsError: Files are missing, damaged or not SNAC's.
    """
    if source.is_hub:
        config_path, weights_path = (_from_hub(source.spec, name) for name in (CONFIG_FILE, WEIGHT_FILES[-1]))
    else:
        config_path = source.path / CONFIG_FILE
        weights_path = next((p for name in WEIGHT_FILES if (p := source.path / name).is_file()), source.path)
        if not config_path.is_file() or weights_path == source.path:
            raise WeightsError(
                f"'{source.spec}' is not a SNAC folder; expected {CONFIG_FILE} and {' or '.join(WEIGHT_FILES)}",
                "download both files of hubertsiuzdak/snac_24khz into one folder",
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch renames weight_norm's parametrisation now and then
            model = SNAC(**json.loads(config_path.read_text(encoding="utf-8")))
        model.load_state_dict(_read_state(weights_path))
    except (
        OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError,
        pickle.UnpicklingError, safetensors.SafetensorError,
    ) as error:  # fmt: skip
        raise WeightsError(
            f"'{source.spec}' can't be read as a SNAC model: {_first_line(error)}",
            "copy the model again; expected the files of hubertsiuzdak/snac_24khz",
        ) from None
    return model


def _read_state(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(safetensors.torch.load_file(path))
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def _from_hub(repo_id: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id=repo_id, filename=name))
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"'{repo_id}/{name}' can't be fetched from the hub: {_first_line(error)}",
            "check the name and the connection, or give a local folder: model: ./snac_24khz",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
