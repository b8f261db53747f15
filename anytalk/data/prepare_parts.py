"""Load a talker's encoder and codec without its language model, which preparing data doesn't need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anytalk.data.ledger import CodecInfo, EncoderInfo
from anytalk.model.assemble import build_codec
from anytalk.model.config import TalkerConfig, read_config
from anytalk.model.talker import Talker, load_part, read_parts
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Codec, SpeechEncoder
from anytalk.plugins.fingerprint import fingerprint
from anytalk.plugins.registry import Registry


@dataclass(frozen=True)
class Senses:
    """Holds the parts that turn sound into features and codes."""

    encoder: SpeechEncoder | None  # None if the talker has none
    codec: Codec
    speakers: tuple[str, ...]  # voices that the talker has an embedding for
    encoder_info: EncoderInfo | None  # identifies the encoder
    codec_info: CodecInfo  # identifies the codec


def load_senses(folder: Path, registry: Registry, device: str = "cpu") -> Senses:
    """Load the encoder, with its trained weights if there are any, and the codec of a talker folder.

    Raises:
        TalkerError: the folder is missing or damaged.
        AnytalkError: a part can't be built.
    """
    config = read_config(folder)
    codec = build_codec(config, registry, folder, device)
    encoder = _load_encoder(config, registry, folder, device)
    return senses_of(config, encoder, codec)


def senses_of(config: TalkerConfig, encoder: SpeechEncoder | None, codec: Codec) -> Senses:
    """Build the senses from parts that are loaded already."""
    encoder_info = None
    if encoder is not None and config.encoder is not None:
        encoder_info = EncoderInfo(
            name=config.encoder.name,
            fingerprint=fingerprint(encoder),
            width=encoder.width,
            sample_rate_hz=encoder.sample_rate_hz,
        )
    return Senses(encoder, codec, tuple(config.speakers), encoder_info, codec_info(config, codec))


def codec_info(config: TalkerConfig, codec: Codec) -> CodecInfo:
    """Identify the codec, to compare it with another."""
    return CodecInfo(
        name=config.codec.name,
        fingerprint=codec.fingerprint,
        num_streams=codec.num_streams,
        codebook_size=codec.codebook_size,
        frame_rate_hz=codec.frame_rate_hz,
    )


def talker_senses(talker: Talker) -> Senses:
    """Build the senses from a talker in memory."""
    return senses_of(talker.config, talker.model.encoder, talker.codec)


def _load_encoder(config: TalkerConfig, registry: Registry, folder: Path, device: str) -> SpeechEncoder | None:
    if config.encoder is None:
        return None
    encoder: SpeechEncoder = registry.build(
        "speech encoder", config.encoder, BuildContext(device=device, folder=folder)
    )
    if config.weights is not None and "encoder" in config.weights.parts:
        load_part(encoder, "encoder", read_parts(folder, config.weights), folder / config.weights.file)
    return encoder.to(device).eval()
