"""Stages and recipes as data. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import Field

from anytalk.errors import ConfigError, UnknownNameError, did_you_mean
from anytalk.model.config import override
from anytalk.plugins.registry import Registry, explain_validation


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class StageConfig(_Model):
    """One stage: what moves, on what, for how long."""

    name: str = Field(description="Name, unique in its recipe.")
    train: list[str] = Field(min_length=1, description="Parts that move; all others are frozen.")
    tasks: dict[str, float] = Field(min_length=1, description="Task names and their weights in the mix of a batch.")
    steps: int = Field(gt=0, description="Optimizer steps.")
    batch_size: int = Field(8, gt=0, description="Rows per optimizer step and micro-batch.")
    accumulate: int = Field(1, gt=0, description="Micro-batches per optimizer step.")
    learning_rate: float = Field(4e-4, gt=0, description="Peak learning rate.")
    learning_rate_floor: float = Field(4e-6, ge=0, description="Learning rate at the end of the cosine.")
    warmup_steps: int = Field(0, ge=0, description="Linear warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's; never on biases, norms and tables.")
    clip_norm: float = Field(1.0, gt=0, description="Gradient norm limit.")
    text_weight: float = Field(1.0, ge=0, description="Weight of the text stream's loss.")
    audio_weight: float = Field(1.0, ge=0, description="Weight of the mean of the audio streams' losses.")
    stream_weights: list[float] | None = Field(None, description="Weight of each audio stream; null: all equal.")
    learn_pads: bool = Field(False, description="Also learn pad_a (needed for the decode rule 'original').")
    seed: int = Field(0, description="Seed of the data order.")
    checkpoint_every: int = Field(200, gt=0, description="Steps between checkpoints.")
    log_every: int = Field(1, gt=0, description="Steps between log lines.")

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> StageConfig:
        if any(weight <= 0 for weight in self.tasks.values()):
            raise ValueError(f"stage '{self.name}': task weights must be above 0")
        if self.learning_rate_floor > self.learning_rate:
            raise ValueError(f"stage '{self.name}': learning_rate_floor is above learning_rate")
        return self


class Recipe(_Model):
    """Stages in order."""

    name: str = Field("recipe", description="Name.")
    stages: list[StageConfig] = Field(min_length=1, description="Stages, in order.")

    @pydantic.model_validator(mode="after")
    def _unique(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("two stages have the same name")
        return self


def find_recipe(name: str, registry: Registry) -> Recipe:
    """A recipe by registered name or from a YAML file.

    Raises:
        UnknownNameError: neither.
        ConfigError: a recipe with wrong fields, all of them listed.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UnknownNameError(f"recipe file '{name}' doesn't exist", "check the path, or name a registered recipe")
        try:
            data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"'{name}' is not YAML: {' '.join(str(error).split())}", "mend the file") from None
    else:
        data = registry.load("recipe", name)
    try:
        return Recipe.model_validate(data)
    except pydantic.ValidationError as error:
        raise ConfigError(
            explain_validation(error, f"recipe '{name}' is not well-formed"), "see docs/configuration.md"
        ) from None


def checkpoint_folder(talker: Path, stage: str) -> Path:
    """Where a stage keeps its checkpoint inside a talker folder."""
    return talker / "history" / f"{stage}.checkpoint"


def stages_to_do(recipe: Recipe, finished: Sequence[str], talker: Path, restart: bool = False) -> list[StageConfig]:
    """The stages that are still to be trained.

    A finished stage that has a checkpoint is a restart that was interrupted: it and all behind it are trained again.
    """
    stages = recipe.stages
    if restart:
        return list(stages)
    restarted = [i for i, s in enumerate(stages) if s.name in finished and checkpoint_folder(talker, s.name).is_dir()]
    first = restarted[0] if restarted else len(stages)
    return [stage for i, stage in enumerate(stages) if i >= first or stage.name not in finished]


def override_stages(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Apply ``STAGE.field=value`` assignments (values are YAML); the stage ``all`` means each one.

    Raises:
        ConfigError: text that is no assignment, a stage that is not there, or a field or value that isn't allowed.
    """
    data = {stage.name: stage.model_dump() for stage in recipe.stages}
    for assignment in assignments:
        name, dot, _ = assignment.partition("=")[0].partition(".")
        if not dot or (name != "all" and name not in data):
            known = ", ".join(data)
            raise ConfigError(
                f"'{assignment}' names no stage of recipe '{recipe.name}'{did_you_mean(name, list(data))}",
                f"write --set STAGE.field=value with a stage of: {known}, or all",
            )
        for stage in data if name == "all" else [name]:
            data = override(data, [stage + assignment[len(name) :]])
    try:
        return Recipe(name=recipe.name, stages=[StageConfig.model_validate(stage) for stage in data.values()])
    except pydantic.ValidationError as error:
        fields = ", ".join(StageConfig.model_fields)
        message = explain_validation(error, "--set makes a stage that is not well-formed")
        raise ConfigError(message, f"fields: {fields}") from None
