"""Describe stages and recipes as data. Doesn't import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pydantic
from pydantic import Field

from anytalk.errors import ConfigError, UnknownNameError, did_you_mean
from anytalk.model.config import override
from anytalk.plugins.components import Options
from anytalk.plugins.registry import Registry
from anytalk.plugins.settings import read_yaml, validated

LORA_PARTS = ("backbone", "encoder")


class LoraConfig(Options):
    """Configures low-rank updates that train instead of whole matrices (LoRA, arXiv 2106.09685), through peft."""

    rank: int = Field(16, gt=0, description="Rank of the updates.")
    alpha: int = Field(32, gt=0, description="Scale: updates are multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the updates.")
    targets: str | list[str] = Field(
        "all-linear", description="Names of the linear layers (suffixes), or 'all-linear' for every one of the part."
    )


class StageConfig(Options):
    """Configures one stage: which parts train, on which tasks and for how long."""

    name: str = Field(description="Name, unique in the recipe.")
    train: list[str] = Field(
        min_length=1,
        description="Parts to train; all others are frozen. 'part:pattern' trains only the parameters of a part whose "
        "names match, e.g. 'backbone:*layers.2[0-3].*'.",
    )
    lora: dict[str, LoraConfig] = Field(
        default_factory=dict,
        description="Parts (backbone, encoder) of `train` that learn low-rank updates, merged at the end of the stage.",
    )
    tasks: dict[str, float] = Field(min_length=1, description="Task names and their weights in the mix of a batch.")
    losses: dict[str, float] = Field(
        default_factory=lambda: {"text": 1.0, "audio": 1.0},
        description="Losses by name and their weights: text, audio (the mean of its streams), distill, and those that "
        "the talker's parts bring.",
    )
    stream_weights: list[float] | None = Field(None, description="Weight of each audio stream; null: all equal.")
    distill_temperature: float = Field(2.0, gt=0, description="Temperature of teacher and student (Ultravox's value).")
    steps: int = Field(gt=0, description="Optimizer steps.")
    batch_size: int = Field(8, gt=0, description="Rows per optimizer step, over all devices.")
    max_positions: int = Field(
        8192,
        gt=0,
        description="Most LM positions (rows x columns) of one forward pass; a step takes as many passes as it needs, "
        "so this trades memory for speed and changes nothing else.",
    )
    max_padding: float = Field(
        0.1, ge=0, lt=1, description="Largest share of padding in a forward pass; rows of similar length are grouped."
    )
    learning_rate: float = Field(4e-4, gt=0, description="Peak learning rate.")
    learning_rate_floor: float = Field(4e-6, ge=0, description="Learning rate at the end of the cosine.")
    warmup_steps: int = Field(0, ge=0, description="Linear warm-up.")
    weight_decay: float = Field(
        0.0, ge=0, description="Weight decay of AdamW; never applied to biases, norms and tables."
    )
    clip_norm: float = Field(1.0, gt=0, description="Gradient norm limit.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute the backbone's activations in the backward pass instead of keeping them."
    )
    learn_pads: bool = Field(False, description="Also train pad_a (needed for the decode rule 'original').")
    max_skips: int = Field(
        3,
        ge=0,
        description="Consecutive steps that may be skipped because loss or gradient was not finite or exploded.",
    )
    explosion: float = Field(20.0, gt=1, description="A loss this many times the running mean counts as exploded.")
    seed: int = Field(0, ge=0, description="Seed of the data order.")
    checkpoint_every: int = Field(200, gt=0, description="Steps between checkpoints.")
    log_every: int = Field(1, gt=0, description="Steps between log lines.")

    @property
    def parts(self) -> list[str]:
        """List the parts that train, without patterns."""
        return sorted({entry.partition(":")[0] for entry in self.train})

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> StageConfig:
        if any(weight <= 0 for weight in self.tasks.values()):
            raise ValueError(f"stage '{self.name}': task weights must be above 0")
        for name, weight in self.losses.items():
            if weight < 0:
                raise ValueError(f"stage '{self.name}': the weight of loss '{name}' is below 0")
        if not any(self.losses.values()):
            raise ValueError(f"stage '{self.name}': no loss has a weight above 0")
        if self.stream_weights is not None and (
            min(self.stream_weights, default=0) < 0 or not any(self.stream_weights)
        ):
            raise ValueError(f"stage '{self.name}': stream_weights must not be below 0, nor all of them 0")
        for name in self.lora:
            if name not in LORA_PARTS:
                raise ValueError(f"stage '{self.name}': lora is for {' and '.join(LORA_PARTS)}, not '{name}'")
            if name not in self.train:
                raise ValueError(f"stage '{self.name}': lora names '{name}', which `train` doesn't")
        if self.learning_rate_floor > self.learning_rate:
            raise ValueError(f"stage '{self.name}': learning_rate_floor is above learning_rate")
        return self


class Recipe(Options):
    """Lists the stages of a training run in order."""

    name: str = Field("recipe", description="Name.")
    stages: list[StageConfig] = Field(min_length=1, description="Stages, in order.")

    @pydantic.model_validator(mode="after")
    def _unique(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("two stages have the same name")
        return self


def find_recipe(name: str, registry: Registry) -> Recipe:
    """Return a registered recipe by name, or read it from a YAML file.

    Raises:
        UnknownNameError: there is no such recipe or file.
        ConfigError: wrong fields, all of them at once.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UnknownNameError(f"recipe file '{name}' doesn't exist", "check the path, or name a registered recipe")
        data = read_yaml(path, ConfigError)
    else:
        data = registry.load("recipe", name)
    return validated(Recipe, data, f"recipe '{name}' is not well-formed", "see docs/configuration.md")


def checkpoint_folder(talker: Path, stage: str) -> Path:
    """Return the path of a stage's checkpoint inside a talker folder."""
    return talker / "history" / f"{stage}.checkpoint"


def stages_to_do(recipe: Recipe, finished: Sequence[str], talker: Path, restart: bool = False) -> list[StageConfig]:
    """Return the stages that are not finished.

    A finished stage with a checkpoint was being trained again when a run was interrupted; it and all later stages count
    as not finished.
    """
    stages = recipe.stages
    if restart:
        return list(stages)
    restarted = [i for i, s in enumerate(stages) if s.name in finished and checkpoint_folder(talker, s.name).is_dir()]
    first = restarted[0] if restarted else len(stages)
    return [stage for i, stage in enumerate(stages) if i >= first or stage.name not in finished]


def override_stages(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Apply ``STAGE.field=value`` assignments, whose values are YAML; the stage ``all`` means every stage.

    Raises:
        ConfigError: text that isn't an assignment, an unknown stage, or a field or value that isn't allowed.
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
    what, hint = "--set makes a stage that is not well-formed", f"fields: {', '.join(StageConfig.model_fields)}"
    stages = [validated(StageConfig, stage, what, hint) for stage in data.values()]
    return validated(Recipe, {"name": recipe.name, "stages": stages}, what, hint)
