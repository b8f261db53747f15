"""Builds a model from a configuration, part by part, and checks that the parts fit. Attach and load both use it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from anytalk.errors import ConfigError, TalkerError
from anytalk.model.config import TalkerConfig
from anytalk.model.talk_model import AudioEmbeddings, SpecialTokens, TalkModel
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, BackboneAdapter, Codec, Ears, OutputAdapter, ServedBackbone
from anytalk.plugins.registry import Registry

T = TypeVar("T")


@contextmanager
def part_seed(seed: int, part: str) -> Iterator[None]:
    """Seed the random state by the talker's seed and the part's name; the caller's state is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1_000_003 + zlib.crc32(part.encode()))
        yield


def build_codec(config: TalkerConfig, registry: Registry, folder: Path | None = None, device: str = "cpu") -> Codec:
    """Build the talker's codec and check it against the grid and the fingerprint in ``talker.yaml``.

    Raises:
        ConfigError: The codec has another shape than the grid, or its codes mean something else.
    """
    codec: Codec = registry.build("codec", config.codec, BuildContext(device=device, folder=folder))
    codec = codec.to(device).eval()
    have, want = (codec.num_streams, codec.codebook_size), (config.grid.codec_streams, config.grid.codebook_size)
    # A configuration from before attach has probed the codec has 0 streams: there is nothing to compare yet.
    if want[0] and have != want:
        raise ConfigError(
            f"codec '{config.codec.name}' has {have[0]} streams of {have[1]} codes; the talker was made for "
            f"{want[0]} of {want[1]}",
            "use the codec that the talker was attached with, or attach again",
        )
    if config.codec_fingerprint not in (None, codec.fingerprint):
        raise ConfigError(
            f"codec '{config.codec.name}' makes other codes (its weights have the fingerprint {codec.fingerprint}) "
            f"than the one that the talker was made for ({config.codec_fingerprint})",
            "restore the weights that it was attached with; other weights may only differ in what decodes",
        )
    return codec


def _build_backbone(config: TalkerConfig, registry: Registry, context: BuildContext) -> Backbone:
    """Build the trained backbone if there is one, or else the attached one."""
    if config.backbone_folder is None:
        base: Backbone = registry.build("backbone", config.backbone, context)
        return base
    folder = (context.folder or Path()) / config.backbone_folder
    if not folder.is_dir():
        raise TalkerError(f"'{folder}' is missing; talker.yaml names it", "copy the folder again, or train again")
    allowed = replace(context, options=registry.options("backbone", config.backbone))
    trained: Backbone = registry.load("backbone", config.backbone.name).load_native(folder, allowed)
    return trained


def assemble(
    config: TalkerConfig,
    registry: Registry,
    *,
    folder: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    with_encoder: bool = True,
    backbone: Backbone | None = None,
    ears: Ears | None = None,
) -> TalkModel:
    """Build the model that a configuration describes; untrained parts are seeded from ``config.seed``.

    Args:
        config: Needs ``grid.codec_streams`` and ``grid.codebook_size``.
        folder: The folder that relative paths in options start from.
        dtype: Dtype of the backbone's weights.
        with_encoder: Whether to build the speech encoder or the ears; without, only typed questions can be asked.
        backbone: An existing backbone to use instead of building it again.
        ears: Existing transcribing ears, likewise.

    Raises:
        AnytalkError: A part can't be found or built, or parts don't fit together.
    """
    context = BuildContext(device=device, dtype=dtype, folder=folder, encoder_width=config.encoder_width)
    if backbone is None:
        backbone = _build_backbone(config, registry, context)
    if isinstance(backbone, ServedBackbone):
        _check_served(config)
    # Parts are built in the order of the data, because each may read sizes of the parts before it from the context.
    context = replace(context, backbone=backbone)
    if ears is None and config.ears is not None and with_encoder:
        ears = registry.build("ears", config.ears, context)
    encoder = None
    if config.encoder is not None and with_encoder:
        encoder = registry.build("speech encoder", config.encoder, context)
        if config.encoder_width and encoder.width != config.encoder_width:
            raise ConfigError(
                f"the speech encoder is {encoder.width} wide; the talker was made for {config.encoder_width}",
                "name the encoder that the talker was attached with",
            )
        context = replace(context, encoder_width=encoder.width)

    layout = config.grid.layout(backbone.text_vocab_size, backbone.tokenizer.eos_id)
    context = replace(
        context,
        num_streams=layout.num_audio_streams,
        stream_vocab_size=layout.stream_vocab_size,
        text_lead=config.grid.text_lead,
    )

    def seeded(part: str, make: Callable[[], T]) -> T:
        with part_seed(config.seed, part):
            return make()

    output_adapter: OutputAdapter = seeded(
        "output_adapter", lambda: registry.build("output adapter", config.output_adapter, context)
    )
    width, audio_width = backbone.width, output_adapter.width
    if isinstance(output_adapter, BackboneAdapter) and audio_width != width:
        raise ConfigError(
            f"output adapter '{config.output_adapter.name}' is {audio_width} wide; its backbone is {width} wide",
            "audio that is fed back into the backbone must have its width",
        )
    if isinstance(backbone, ServedBackbone) and not output_adapter.fits_any_backbone:
        raise ConfigError(
            f"output adapter '{config.output_adapter.name}' needs the language model itself, which is served "
            "elsewhere: only its text comes here",
            "use one that reads text alone: --output-adapter talker",
        )
    context = replace(context, audio_width=audio_width)
    text_std = _embedding_std(backbone)
    # Audio tables start at the size of text embeddings, unless the adapter has a scale of its own.
    audio_std = text_std if output_adapter.table_std is None else output_adapter.table_std
    input_ref, hearing_ref, speakers = config.input_adapter, config.hearing, config.speakers
    input_adapter = None
    if input_ref is not None:
        input_adapter = seeded("input_adapter", lambda: registry.build("input adapter", input_ref, context))
    context = replace(context, input_adapter=input_adapter)
    model = TalkModel(
        layout=layout,
        encoder_width=context.encoder_width,
        merge=config.grid.merge,
        backbone=backbone,
        encoder=encoder,
        ears=ears,
        input_adapter=input_adapter,
        hearing=None if hearing_ref is None else registry.build("hearing", hearing_ref, context),
        output_adapter=output_adapter,
        heads=seeded("heads", lambda: registry.build("heads", config.heads, context)),
        # K rows are summed, so this scale keeps the sum about as large as a text embedding.
        audio_embeddings=seeded(
            "audio_embeddings", lambda: AudioEmbeddings(layout, audio_width, audio_std / layout.num_audio_streams**0.5)
        ),
        special_tokens=seeded(
            "special_tokens", lambda: SpecialTokens(layout, width, text_std * 0.1, audio_width, audio_std * 0.1)
        ),
        speaker=seeded("speaker", lambda: _speaker_table(len(speakers), audio_width, audio_std * 0.1)),
    )
    return model.to(device).eval()


def _check_served(config: TalkerConfig) -> None:
    """Refuse prompts that can't be sent as messages (ConfigError: what to use instead)."""
    if config.input_adapter is not None:
        raise ConfigError(
            f"input adapter '{config.input_adapter.name}' gives embeddings, and a model that is served elsewhere can "
            "only be sent words",
            "use ears that write: --ears transcript",
        )
    if config.grid.prompt != "chat":
        raise ConfigError("a model that is served elsewhere takes only chat messages", "set grid.prompt: chat")


def _speaker_table(num_speakers: int, width: int, std: float) -> nn.Embedding | None:
    if not num_speakers:
        return None
    table = nn.Embedding(num_speakers, width)
    nn.init.normal_(table.weight, std=std)
    return table


@torch.no_grad()
def _embedding_std(backbone: Backbone) -> float:
    """Return the root mean square of the backbone's text embeddings, over its first rows."""
    device = next(backbone.parameters()).device
    # The first rows are enough to tell the size.
    ids = torch.arange(min(backbone.text_vocab_size, 4096), device=device)[None]
    return float(backbone.embed_text(ids).float().pow(2).mean().sqrt())
