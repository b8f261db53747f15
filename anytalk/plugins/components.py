"""Defines components, their options, and the context that parts are built in. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pydantic

from anytalk.errors import ConfigError

if TYPE_CHECKING:
    from anytalk.plugins.contracts import Backbone, InputAdapter


@dataclass(frozen=True)
class Component:
    """Names one part that a plugin offers."""

    name: str  # what users write in a configuration, e.g. `"qwen2"`
    target: str  # its import path, `"package.module:Name"`; imported only when it is built
    summary: str  # one line for `anytalk plugins`
    # What it needs or looks for besides anytalk's own requirements, for `anytalk doctor`: a distribution (`"snac"`), a
    # package of weights (`"package:some_weights"`), a program (`"program:ffmpeg"`), or a folder of downloads in the
    # user's cache (`"cache:whisper"`).
    uses: tuple[str, ...] = ()
    # The SPDX name, equal to its class's own, so that `anytalk info` needn't import the class; empty: it is imported.
    licence: str = ""
    # If no codec was chosen, `attach` takes the one of the highest rank, and among equals the first by name.
    rank: int = 0


class Options(pydantic.BaseModel):
    """The base class of all settings and of each part's ``Options``: it is immutable and refuses unknown keys.

    Attributes:
        weight_sources: Names of the fields that say where weights come from, spelled as in
            :mod:`anytalk.plugins.sources`. ``attach`` makes local paths in them absolute, and ``attach MODEL`` sets
            the first one of a backbone.
    """

    weight_sources: ClassVar[tuple[str, ...]] = ()

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class PartRef(Options):
    """Names a part and its options, as in ``talker.yaml``."""

    name: str = pydantic.Field(description="Registered name of the part.")
    options: dict[str, Any] = pydantic.Field(
        default_factory=dict, description="The part's own options; `anytalk plugins NAME` lists them."
    )


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """Carries what is already known when a part is built; each part is built from what came before it."""

    device: str = "cpu"  # Torch device string
    dtype: str = "float32"  # Torch dtype name of frozen weights, e.g. `"float32"`
    folder: Path | None = None  # folder that relative paths of options are relative to (the talker folder), if any
    options: Options | None = None  # the options a backbone was attached with, for `load_native`
    backbone: Backbone | None = None  # built first; `None` while the backbone itself is built
    # E of the speech encoder, 0 while unknown; it comes from `talker.yaml` even if the encoder itself isn't loaded.
    encoder_width: int = 0
    input_adapter: InputAdapter | None = None  # built before the hearing, which needs it
    audio_width: int = 0  # W, width of what the audio heads read (0 before the output adapter is built)
    num_streams: int = 0  # K, audio streams of the grid (0 before the grid is known)
    stream_vocab_size: int = 0  # codes plus special tokens of one audio stream (0 before the grid is known)
    text_lead: int | Literal["all"] = 0  # `grid.text_lead`

    def need_backbone(self) -> Backbone:
        """Return the backbone; ConfigError if the part is built without one."""
        if self.backbone is None:
            raise ConfigError("this part needs a backbone to be built before it", "build parts through assemble()")
        return self.backbone

    def need_encoder_width(self) -> int:
        """Return E; ConfigError if the part is built without a speech encoder."""
        if self.encoder_width <= 0:
            raise ConfigError("an input adapter needs a speech encoder in front of it", "set `encoder:` in talker.yaml")
        return self.encoder_width

    def need_input_adapter(self) -> InputAdapter:
        """Return the input adapter; ConfigError if the part is built without one."""
        if self.input_adapter is None:
            raise ConfigError("a hearing needs an input adapter before it", "set `input_adapter:` in talker.yaml")
        return self.input_adapter

    def need_audio_width(self) -> int:
        """Return W; ConfigError if the part is built without an output adapter."""
        if self.audio_width <= 0:
            raise ConfigError("audio heads need an output adapter before them", "build parts through assemble()")
        return self.audio_width
