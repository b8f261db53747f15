"""Defines ``talker.yaml``. Torch-free, so that a wrong file is reported at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
import yaml
from pydantic import Field

from anytalk.errors import ConfigError, TalkerError, did_you_mean
from anytalk.grid.delay import PATTERNS, DelayPattern
from anytalk.grid.tokens import AUDIO_SPECIALS, TEXT_SPECIALS, StreamLayout
from anytalk.model.version1 import from_version_1
from anytalk.plugins.components import Options, PartRef
from anytalk.plugins.settings import read_yaml, validated

T = TypeVar("T", bound=Options)
CONFIG_FILE = "talker.yaml"
FORMAT_VERSION = 2

PART_KINDS = {
    "encoder": "speech encoder",
    "ears": "ears",
    "input_adapter": "input adapter",
    "hearing": "hearing",
    "backbone": "backbone",
    "output_adapter": "output adapter",
    "heads": "heads",
    "codec": "codec",
}
"""Fields of ``talker.yaml`` that name a part, with the kind under which it is registered, in the order of the data."""


class AudioGrid(Options):
    """Describes the audio side of the token grid, which a voice's training fixes."""

    pattern: str = Field("delay", description=f"Delay pattern: {', '.join(PATTERNS)}.")
    text_lead: int | Literal["all"] = Field(
        0, description="Extra pad tokens before the audio; 'all' starts audio after the text's end."
    )
    merge: Literal["sum", "mean"] = Field(
        "sum",
        description="How the streams become one embedding: 'sum' keeps text-only prompts exactly the base model's "
        "(pads are zero); 'mean' is the paper's.",
    )
    audio_special_slots: int = Field(
        len(AUDIO_SPECIALS), ge=len(AUDIO_SPECIALS), description="Rows for the special tokens of each audio stream."
    )
    codec_streams: int = Field(0, ge=0, description="Codes per codec frame; written by attach.")
    codebook_size: int = Field(0, ge=0, description="Codes per codebook; written by attach.")

    def delay_pattern(self) -> DelayPattern:
        return DelayPattern(self.pattern, self.codec_streams, self.codebook_size, self.text_lead)


class GridConfig(AudioGrid):
    """Describes the token grid: its audio side, prompt style and text side."""

    prompt: Literal["chat", "raw"] = Field(
        "chat", description="'chat': the backbone's template; 'raw': the original's."
    )
    system: str | None = Field(None, description="System message of chat prompts; null: the template's own default.")
    template: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments of the model's chat template, for example {enable_thinking: false}.",
    )
    end_of_text: Literal["eos", "eot"] = Field(
        "eos", description="Token that ends a text answer: the backbone's end token, or the original's eot."
    )
    text_special_slots: int = Field(
        len(TEXT_SPECIALS), ge=len(TEXT_SPECIALS), description="Rows for special tokens of the text stream."
    )

    def layout(self, text_vocab_size: int, eos_id: int) -> StreamLayout:
        pattern = self.delay_pattern()
        return StreamLayout(
            num_audio_streams=pattern.num_audio_streams,
            codebook_size=pattern.codebook_size,
            text_vocab_size=text_vocab_size,
            end_of_text_id=eos_id if self.end_of_text == "eos" else text_vocab_size,
            text_special_slots=self.text_special_slots,
            audio_special_slots=self.audio_special_slots,
        )


class BaseInfo(Options):
    """Describes the language model that the talker was attached to."""

    model: str = Field(description="Name of the model as given to attach.")
    revision: str | None = Field(None, description="Hub revision, if one was given.")
    fingerprint: str = Field(description="Digest of the base weights, compared when loading.")
    licence: str = Field("unknown", description="Licence of the base weights.")
    findings: list[str] = Field(default_factory=list, description="Findings of attach about this model.")


class VoiceInfo(Options):
    """Describes the voice that the talker was attached with."""

    name: str = Field(description="The voice's name.")
    fingerprint: str = Field(description="SHA-256 digest of the voice's weights file.")
    licence: str = Field("unknown", description="Licence of the voice's weights.")


class WeightsFile(Options):
    """Describes a file of trained parts, with its digest."""

    file: str = Field(description="File name inside the folder.")
    num_bytes: int = Field(description="Size of the file in bytes.")
    sha256: str = Field(description="SHA-256 digest of the file.")
    parts: list[str] = Field(description="Parts in the file.")


class StageRecord(Options):
    """Describes a finished training stage."""

    name: str = Field(description="Stage name.")
    trained: list[str] = Field(description="Trained parts.")
    steps: int = Field(description="Optimizer steps.")
    loss_first: float = Field(description="Mean loss of the first logged steps.")
    loss_last: float = Field(description="Mean loss of the last logged steps.")
    seconds: float = Field(description="Wall-clock time.")
    curve: str | None = Field(None, description="Path of the loss curve's picture inside the folder.")


class TalkerConfig(Options):
    """Describes everything about a talker except its weights."""

    format_version: int = Field(FORMAT_VERSION, description="Version of this file's format.")
    library_version: str = Field("", description="Version of anytalk that wrote it.")
    backbone: PartRef = Field(description="The text language model that was attached.")
    backbone_folder: str | None = Field(
        None, description="Folder of the trained backbone inside the talker folder; null: untrained."
    )
    encoder: PartRef | None = Field(
        None, description="Speech encoder; null for a talker without hearing or with `ears`."
    )
    ears: PartRef | None = Field(None, description="Transcribing ears, used instead of `encoder` and `input_adapter`.")
    encoder_width: int = Field(0, description="Width E of the encoder's features; written by attach.")
    input_adapter: PartRef | None = Field(None, description="Maps encoder features to backbone embeddings.")
    hearing: PartRef | None = Field(
        None,
        description="Chooses between hypotheses of the input adapter, at inference only; may be null.",
    )
    output_adapter: PartRef = Field(description="Maps backbone states to the input of the audio heads.")
    heads: PartRef = Field(description="Audio heads.")
    codec: PartRef = Field(description="Codec of the voice.")
    codec_fingerprint: str | None = Field(
        None, description="Digest of the codec weights that decide the codes, compared when loading. Null in version 1."
    )
    grid: GridConfig = Field(default_factory=lambda: GridConfig(), description="The token grid.")
    speakers: list[str] = Field(default_factory=list, description="Names of learned speaker embeddings; may be empty.")
    decode_rule: Literal["staircase", "original"] = Field(
        "staircase", description="'staircase' enforces legal tokens; 'original' decodes as Mini-Omni does."
    )
    arithmetic: Literal["exact", "fused", "graphs", "packed", "int8", "int4"] = Field(
        "exact",
        description="How answers are computed: 'exact' as the base model does; 'fused', 'graphs' (GPU) and 'packed' "
        "(CPU) faster and equal to rounding; 'int8' (CPU) faster still, at a loss that `anytalk bench precision` "
        "measures, and Whisper hears in 8 bits, too; 'int4' (CPU) as 'int8', but decoders of Llama and Qwen2 take "
        "single steps with 4-bit weights.",
    )
    seed: int = Field(0, description="Seed of untrained parts.")
    base: BaseInfo | None = Field(None, description="The base model; written by attach.")
    voice: VoiceInfo | None = Field(
        None, description="Voice that the output adapter, heads, tables and codec were taken from; written by attach."
    )
    weights: WeightsFile | None = Field(None, description="File of trained parts; null before the first stage.")
    history: list[StageRecord] = Field(default_factory=list, description="Finished stages.")

    @pydantic.model_validator(mode="after")
    def _has_one_kind_of_ears(self) -> TalkerConfig:
        if self.ears is not None and (self.encoder is not None or self.input_adapter is not None):
            raise ValueError("transcribing ears replace encoder and input_adapter: set these to null")
        return self

    @property
    def hears(self) -> bool:
        """Whether the talker takes spoken questions."""
        return self.encoder is not None or self.ears is not None

    def check_speaker(self, name: str | None, asked_by: str) -> None:
        """Raise TalkerError, with the voices that there are, for a voice that the talker doesn't have."""
        if name is not None and name not in self.speakers:
            known = (
                f"voices: {', '.join(self.speakers)}" if self.speakers else f"it has one, unnamed: leave out {asked_by}"
            )
            raise TalkerError(f"this talker has no voice '{name}'{did_you_mean(name, self.speakers)}", known)

    def replace(self, **changes: Any) -> TalkerConfig:
        """Return a validated copy with some fields changed."""
        return TalkerConfig.model_validate({**self.model_dump(), **changes})


def parse_config(data: dict[str, Any], name: str) -> TalkerConfig:
    """Validate the content of ``talker.yaml``; ConfigError lists everything that is wrong with it."""
    return parse(TalkerConfig, data, name)


def parse(kind: type[T], data: dict[str, Any], name: str) -> T:
    """Validate settings of one kind; ConfigError lists everything that is wrong with them."""
    return validated(kind, data, f"'{name}' is not well-formed", "see docs/configuration.md")


def read_config(folder: Path) -> TalkerConfig:
    """Read ``talker.yaml`` of a talker folder.

    Raises:
        TalkerError: The folder or file doesn't exist, is not YAML, or is of a newer anytalk.
        ConfigError: The file has wrong fields.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        what = "has no talker.yaml" if folder.is_dir() else "doesn't exist"
        raise TalkerError(f"talker folder '{folder}' {what}", f"make one: anytalk attach MODEL -o {folder}")
    data = read_mapping(path, FORMAT_VERSION)
    # Files without a version are of version 1.
    return parse_config(from_version_1(data) if data.get("format_version", 1) == 1 else data, str(path))


def read_mapping(path: Path, newest: int) -> dict[str, Any]:
    """Read a YAML mapping whose ``format_version`` is at most `newest`.

    Raises:
        TalkerError: The file is not YAML, or is of a newer anytalk.
    """
    data = read_yaml(path, TalkerError, "restore the file")
    if not isinstance(data, dict):
        raise TalkerError(f"'{path}' is empty or not a mapping", "restore the file, or copy the folder again")
    version = data.get("format_version", 1)
    if isinstance(version, int) and version > newest:
        raise TalkerError(f"'{path}' was written by a newer anytalk", "pip install -U anytalk")
    return data


class _Dumper(yaml.SafeDumper):
    """Writes multi-line texts as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def dump_config(config: Options) -> str:
    """Return a configuration as YAML."""
    text: str = yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def make_room_for_ears(data: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Remove the encoder and input adapter from settings with transcribing ears, except where they were set."""
    chosen = {assignment.partition("=")[0].partition(".")[0] for assignment in assignments}
    absent = {part: None for part in ("encoder", "input_adapter") if part not in chosen}
    return data | absent if data.get("ears") is not None else data


def override(data: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Return a copy of nested mappings with ``a.b=c`` assignments applied; the values are YAML.

    Raises:
        ConfigError: An assignment has no '=', or its path leads through a value that is no mapping.
    """
    import copy

    # The defaults are shared, so they must not be changed in place.
    data = copy.deepcopy(data)
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"'{assignment}' is not an assignment", "write --set part.options.name=value")
        *parents, last = path.split(".")
        target = data
        for parent in parents:
            if target.get(parent) is None:
                target[parent] = {}
            target = target[parent]
            if not isinstance(target, dict):
                raise ConfigError(f"'{path}' goes through '{parent}', which is not a mapping", "check the path")
        try:
            target[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"the value of '{assignment}' is not YAML", "quote it: --set 'a.b=\"text\"'") from None
    return data
