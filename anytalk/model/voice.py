"""Reads voices: folders with a speech decoder that fits any backbone. Torch-free.

====================== ============================================================================================
``voice.yaml``         the voice's parts, the layout of its audio in the grid, its licence
``voice.safetensors``  weights of the output adapter, heads, audio tables, audio special tokens and speakers
``README.md``          the card
``LICENSE*, NOTICE*``  licences of its weights, which are copied into every talker with this voice
other files            files that options name by a relative path, such as the codec's weights
====================== ============================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from anytalk.errors import ConfigError, PluginError, TalkerError, UnknownNameError, WeightsError
from anytalk.model.config import AudioGrid, VoiceInfo, WeightsFile, parse, read_mapping
from anytalk.plugins.components import Options, PartRef
from anytalk.plugins.registry import Registry
from anytalk.plugins.sources import PACKAGE_PREFIX, resolve

VOICE_FILE = "voice.yaml"
VOICE_WEIGHTS = "voice.safetensors"
VOICE_FORMAT_VERSION = 1
VOICE_PARTS = ("output_adapter", "heads", "audio_embeddings", "special_tokens", "speaker")
"""The model's parts that a voice holds; of the special tokens it holds only those of the audio streams."""
WHERE_VOICES_ARE = (
    "install a package that brings voices, such as anytalk-heart (in a checkout: pip install ./examples/anytalk-heart),"
    " or name a voice folder (`anytalk pack TALKER --voice-only` makes one)"
)
_OF_TALKER = ("output_adapter", "heads", "codec", "codec_fingerprint", "speakers")
"""The fields that ``voice.yaml`` and ``talker.yaml`` share."""


class Voice(Options):
    """Holds the content of ``voice.yaml``."""

    format_version: int = Field(VOICE_FORMAT_VERSION, description="Version of this file's format.")
    library_version: str = Field("", description="Version of anytalk that wrote it.")
    name: str = Field(description="Name of the voice.")
    description: str = Field("", description="A sentence or two about the voice.")
    language: str | None = Field(None, description="Code of its language, such as en; null: several.")
    licence: str = Field("unknown", description="SPDX name of the weights' licence.")
    output_adapter: PartRef = Field(description="Speech decoder that reads the text tokens and no backbone states.")
    heads: PartRef = Field(description="Audio heads.")
    codec: PartRef = Field(description="Codec; paths are relative to the voice folder.")
    codec_fingerprint: str = Field(description="Digest of the codec weights that decide the codes.")
    grid: AudioGrid = Field(description="Layout of its audio in the token grid.")
    speakers: list[str] = Field(default_factory=list, description="Names of speaker embeddings; may be empty.")
    ears: PartRef | None = Field(None, description="Transcribing ears to attach by default.")
    weights: WeightsFile = Field(description="The voice's weights file.")

    @property
    def refs(self) -> tuple[PartRef, ...]:
        return self.output_adapter, self.heads, self.codec

    @property
    def info(self) -> VoiceInfo:
        """Return what a talker records about its voice."""
        return VoiceInfo(name=self.name, fingerprint=self.weights.sha256, licence=self.licence)


@dataclass(frozen=True)
class VoiceFolder:
    """Holds a voice and the folder that it was read from."""

    folder: Path
    voice: Voice

    def settings(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of attach, with the voice's own values in place of them."""
        mine = self.voice.model_dump()
        fixed = {name: mine[name] for name in _OF_TALKER}
        grid = {**data.get("grid", {}), **mine["grid"]}
        return {**data, **fixed, "grid": grid, "voice": self.voice.info.model_dump()}


def read_voice(folder: Path) -> VoiceFolder:
    """Read ``voice.yaml`` of a voice folder, but not its weights.

    Raises:
        TalkerError: The folder or file doesn't exist, is not YAML, or is of a newer anytalk.
        ConfigError: The file has wrong fields.
    """
    path = folder / VOICE_FILE
    if not path.is_file():
        what = f"has no {VOICE_FILE}" if folder.is_dir() else "doesn't exist"
        raise TalkerError(
            f"voice folder '{folder}' {what}",
            "name a voice of `anytalk voices`, or make a folder: anytalk pack TALKER --voice-only -o FOLDER",
        )
    return VoiceFolder(folder, parse(Voice, read_mapping(path, VOICE_FORMAT_VERSION), str(path)))


def find_voice(spec: str, registry: Registry) -> VoiceFolder:
    """Find a voice by its folder, by ``package:NAME/PATH``, or by the name under which a plugin registered it.

    A folder with a voice in it takes precedence over a name.

    Raises:
        UnknownNameError: There is no such voice.
        AnytalkError: The voice can't be read.
    """
    path = Path(spec).expanduser()
    if (path / VOICE_FILE).is_file():
        return read_voice(path)
    if spec.startswith(PACKAGE_PREFIX):
        return read_voice(resolve(spec).path)
    known = registry.components("voice")
    # It looks like a path, so the error should be about a folder and not about a name.
    if spec not in known and (path.exists() or path.name != spec):
        return read_voice(path)
    if not known:
        raise UnknownNameError(f"unknown voice '{spec}': no voice is installed", WHERE_VOICES_ARE)
    return registered_voice(spec, registry)


def registered_voice(name: str, registry: Registry) -> VoiceFolder:
    """Read the voice that a plugin registered under a name.

    Raises:
        AnytalkError: No voice, or more than one, has this name, or its folder can't be read.
    """
    target = registry.load("voice", name)
    plugin = registry.find("voice", name).plugin
    if not isinstance(target, str | Path):
        raise PluginError(
            f"voice '{name}' of plugin '{plugin}' points at {target!r}, which isn't the path of a folder",
            "let the component's target be a Path, or a text such as package:NAME/PATH",
        )
    try:
        return read_voice(resolve(str(target)).path)
    except (WeightsError, TalkerError) as error:
        raise PluginError(
            f"voice '{name}' of plugin '{plugin}' can't be read: {error.message}", "install its package again"
        ) from None


def refuse_fixed_settings(assignments: list[str]) -> None:
    """Raise ConfigError for the first ``a.b=c`` setting that the voice decides itself."""
    fixed = (*_OF_TALKER, "voice", *(f"grid.{name}" for name in AudioGrid.model_fields))
    for assignment in assignments:
        path = assignment.partition("=")[0]
        # A setting clashes with a fixed field above it, below it, or equal to it.
        if any(f"{path}.".startswith(f"{name}.") or f"{name}.".startswith(f"{path}.") for name in fixed):
            raise ConfigError(
                f"'{path}' is set, but the voice brings its own", f"leave '{path}' out, or leave out --voice"
            )


def ears_are_chosen(assignments: list[str]) -> bool:
    """Return whether any ``a.b=c`` setting chooses the ears."""
    chosen = {assignment.partition("=")[0].partition(".")[0] for assignment in assignments}
    return bool(chosen & {"encoder", "input_adapter", "hearing", "ears"})
