"""What a plugin hands over: names of classes, their options, and what they are built with. No torch."""

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
    """One thing that a plugin offers."""

    name: str  # what users write in a configuration, e.g. `"qwen2"`
    target: str  # where it lives, `"package.module:Name"`; imported only when it is built
    summary: str  # one line for `anytalk plugins`
    # What it needs or looks for beside anytalk's own requirements, for `anytalk doctor`: a distribution (`"snac"`), a
    # package of weights (`"package:some_weights"`), a program (`"program:ffmpeg"`), or a folder of downloads below the
    # user's cache (`"cache:whisper"`).
    uses: tuple[str, ...] = ()
    # SPDX name, the same as its class says, so that `anytalk info` needn't import it; empty: the class is imported.
    licence: str = ""
    # Where nobody chose, `attach` takes the codec with the highest; of equal ones the first by name.
    rank: int = 0


class Options(pydantic.BaseModel):
    """Base of all settings, each part's ``Options`` too: unknown keys refused, immutable, every field described.

    Attributes:
        weight_sources: Names of the fields that say where weights come from, in the spelling of
            :mod:`anytalk.plugins.sources`. ``attach`` makes local paths in them absolute, and
            ``attach MODEL`` sets a backbone's first one.
    """

    weight_sources: ClassVar[tuple[str, ...]] = ()

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class PartRef(Options):
    """A part by name with its own options, as in ``talker.yaml``."""

    name: str = pydantic.Field(description="Registered name of the part.")
    options: dict[str, Any] = pydantic.Field(
        default_factory=dict, description="The part's own options; `anytalk plugins NAME` lists them."
    )


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What is already known when a part is built. Parts are built left to right along the line."""

    device: str = "cpu"  # Torch device string
    dtype: str = "float32"  # Torch dtype name of frozen weights, e.g. `"float32"`
    folder: Path | None = None  # folder that relative paths of options are relative to (the talker folder), if any
    options: Options | None = None  # what a backbone was attached with, where `load_native` loads it
    backbone: Backbone | None = None  # built first; `None` while the backbone itself is built
    # E of the speech encoder (0 before it is known); known from `talker.yaml` even where the encoder itself is not
    # loaded.
    encoder_width: int = 0
    input_adapter: InputAdapter | None = None  # built before the hearing, which chooses between what it may have heard
    audio_width: int = 0  # W, width of what the audio heads read (0 before the output adapter is built)
    num_streams: int = 0  # K, audio streams of the grid (0 before the grid is known)
    stream_vocab_size: int = 0  # codes plus special tokens of one audio stream (0 before the grid is known)
    text_lead: int | Literal["all"] = 0  # `grid.text_lead`

    def need_backbone(self) -> Backbone:
        """Return the backbone, or a ConfigError when the part is built without one."""
        if self.backbone is None:
            raise ConfigError("this part needs a backbone to be built before it", "build parts through assemble()")
        return self.backbone

    def need_encoder_width(self) -> int:
        """E, or a ConfigError when the part is built without a speech encoder."""
        if self.encoder_width <= 0:
            raise ConfigError("an input adapter needs a speech encoder in front of it", "set `encoder:` in talker.yaml")
        return self.encoder_width

    def need_input_adapter(self) -> InputAdapter:
        """Return the input adapter, or a ConfigError when the part is built without one."""
        if self.input_adapter is None:
            raise ConfigError("a hearing needs an input adapter before it", "set `input_adapter:` in talker.yaml")
        return self.input_adapter

    def need_audio_width(self) -> int:
        """W, or a ConfigError when the part is built without an output adapter."""
        if self.audio_width <= 0:
            raise ConfigError("audio heads need an output adapter before them", "build parts through assemble()")
        return self.audio_width
