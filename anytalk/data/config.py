"""Read ``data.yaml``, which lists sources with their tasks and weights. Doesn't import torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import pydantic
from pydantic import Field

from anytalk.data.checks import checked_rows
from anytalk.errors import DataError
from anytalk.plugins.components import Options, PartRef
from anytalk.plugins.contracts import BadRow, Row, strict_rows
from anytalk.plugins.registry import Registry
from anytalk.plugins.settings import read_yaml, validated
from anytalk.plugins.sources import is_there

if TYPE_CHECKING:
    from anytalk.plugins.contracts import DataSource


class Filters(Options):
    """Sets limits; rows outside them are left out and counted."""

    min_question_s: float | None = Field(None, ge=0, description="Shortest spoken question, in seconds.")
    max_question_s: float | None = Field(None, gt=0, description="Longest spoken question, in seconds.")
    min_answer_s: float | None = Field(None, ge=0, description="Shortest spoken answer, in seconds.")
    max_answer_s: float | None = Field(None, gt=0, description="Longest spoken answer, in seconds.")
    max_question_chars: int | None = Field(None, gt=0, description="Longest question text, in characters.")
    max_answer_chars: int | None = Field(None, gt=0, description="Longest answer text, in characters.")


class SourceConfig(Options):
    """Describes one source of rows."""

    kind: str = Field(description="Data source plugin: jsonl, csv, hf, voiceassistant, librispeech ...")
    name: str = Field("", description="Name, unique in its file; default: kind and place.")
    path: str = Field(description="File, folder or hub id; relative paths are relative to the data file.")
    options: dict[str, Any] = Field(default_factory=dict, description="More options of the plugin.")
    tasks: list[str] | None = Field(None, min_length=1, description="Tasks to use it for; null: all that a row allows.")
    weight: float = Field(1.0, gt=0, description="Sampling weight relative to the other sources of a task.")
    limit: int | None = Field(None, gt=0, description="Use only this many rows from the start.")
    filters: Filters = Field(default_factory=lambda: Filters(), description="Limits of length.")

    def anchored(self, folder: Path) -> Self:
        """Resolve `path` relative to the data file if that names something there; hub ids and URLs stay as they are."""
        beside = folder / self.path
        if "://" in self.path or Path(self.path).is_absolute() or not is_there(beside):
            return self
        return self.model_copy(update={"path": str(beside)})


class VoiceConfig(Options):
    """Chooses the voices that read texts aloud if a row has no sound."""

    synthesizer: PartRef = Field(
        default_factory=lambda: PartRef(name="piper"), description="Synthesizer plugin and its options."
    )
    question_voices: list[str] | None = Field(None, description="Voices of the questions, used in rotation; null: all.")
    question_speeds: list[float] = Field([1.0], min_length=1, description="Speeds of the questions, used in rotation.")
    answer_synthesizer: PartRef | None = Field(
        None, description="Synthesizer of the answers, where it is another one; null: the same."
    )
    answer_voice: str | None = Field(None, description="Voice of the answers; null: their synthesizer's first.")


class DataConfig(Options):
    """Describes all sources of a training run."""

    sources: list[SourceConfig] = Field(min_length=1, description="Data sources.")
    voice: VoiceConfig | None = Field(
        None, description="Synthesize missing sound; null: rows without sound are used for fewer tasks."
    )
    augment: list[PartRef] = Field(
        default_factory=list, description="Augmentations of the spoken questions, applied in this order."
    )
    seed: int = Field(0, description="Seed of random choices (voices, augmentations).")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_sources(cls, data: Any) -> Any:
        """Name each source that has no name after its kind and path."""
        if not isinstance(data, dict) or not isinstance(data.get("sources"), list):
            return data
        named = []
        for source in data["sources"]:
            if isinstance(source, dict) and not source.get("name"):
                source = {**source, "name": f"{source.get('kind')}:{Path(str(source.get('path'))).name}"}
            named.append(source)
        return {**data, "sources": named}

    @pydantic.model_validator(mode="after")
    def _unique(self) -> DataConfig:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called '{name}': give them names of their own (name: ...)")
        return self


MANIFESTS = {".jsonl": "jsonl", ".csv": "csv"}
"""Maps suffixes of manifests to data sources; a single manifest needs no ``data.yaml``."""


def read_data_config(path: Path) -> DataConfig:
    """Read ``data.yaml``, or make a configuration for a single manifest.

    Raises:
        DataError: the file doesn't exist or isn't YAML.
        ConfigError: wrong fields, all of them at once.
    """
    if not path.is_file():
        raise DataError(f"'{path}' doesn't exist", "give a data.yaml, a manifest (.jsonl, .csv) or a prepared folder")
    if path.suffix in MANIFESTS:
        return DataConfig(sources=[SourceConfig(kind=MANIFESTS[path.suffix], name=path.name, path=str(path))])
    if path.suffix not in (".yaml", ".yml"):
        raise DataError(f"'{path}' is neither .yaml nor a manifest ({', '.join(MANIFESTS)})", "see docs/data.md")
    config = validated(DataConfig, read_yaml(path, DataError), f"'{path}' is not well-formed", "see docs/data.md")
    return config.model_copy(update={"sources": [source.anchored(path.parent) for source in config.sources]})


def build_source(source: SourceConfig, registry: Registry) -> DataSource:
    """Build the reader of a source; AnytalkError for an unknown kind, wrong options or a `path` that doesn't exist."""
    options = {**source.options, "path": source.path}
    built: DataSource = registry.build("data source", PartRef(name=source.kind, options=options))
    return built


@overload
def read_rows(source: SourceConfig, registry: Registry, *, strict: Literal[True]) -> Iterator[Row]: ...
@overload
def read_rows(
    source: SourceConfig, registry: Registry, *, strict: bool = False, keep_blank: bool = False
) -> Iterator[Row | BadRow]: ...
def read_rows(
    source: SourceConfig, registry: Registry, *, strict: bool = False, keep_blank: bool = False
) -> Iterator[Row | BadRow]:
    """Read the first `limit` rows of a source, including bad ones. Filters are applied later, when lengths are known.

    Args:
        strict: Raise the first bad row as an error instead of yielding it.
        keep_blank: Accept blank questions and answers; `anytalk data clean` has a rule for them.

    Raises:
        DataError: the source can't be read, or with `strict` the first bad row.
    """
    rows = islice(checked_rows(build_source(source, registry).rows(), source.name, keep_blank), source.limit)
    return strict_rows(rows) if strict else rows
