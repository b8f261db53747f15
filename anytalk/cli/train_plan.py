"""Estimate the memory that each stage needs before it runs: ``anytalk train --plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anytalk.cli.render import err, note, out, size, table
from anytalk.grid.tasks import find_task
from anytalk.train.config import Recipe, StageConfig
from anytalk.train.memory import DeviceMemory, StageParameters, plain_memory, zero_memory

if TYPE_CHECKING:
    from anytalk.model.talker import Talker

WORLDS = (1, 2, 8)
"""Numbers of devices for which ZeRO is planned."""

_COLUMNS = ("on each device", "parameters", "gradients", "optimizer", "activations", "all")


def print_plan(talker: Talker, recipe: Recipe, precision: str) -> None:
    """Print a table for each stage: the memory of one process, and of ZeRO 1 to 3 on several devices.

    Args:
        talker: A talker with its encoder loaded; the freezing of the last stage stays applied.
        precision: ``"no"``, ``"bf16"`` or ``"fp16"``.

    Raises:
        AnytalkError: a stage that this talker can't run.
    """
    from anytalk.train.activations import measure_activations

    for stage in recipe.stages:
        counts = count_stage(talker, stage)
        tasks = [find_task(name) for name in stage.tasks]
        with err.status(f"measuring the activations of stage '{stage.name}' ..."):
            activations = measure_activations(talker, stage, tasks, precision)
        # The next stage must start from the plain layers.
        _drop_lora(talker, stage)
        lines = plan_lines(counts, activations, precision)
        cells = [
            (name, *map(size, (m.parameters, m.gradients, m.optimizer, m.activations, m.total))) for name, m in lines
        ]
        out.print(table(f"Stage '{stage.name}', precision {precision}", _COLUMNS, cells, _COLUMNS[1:]))
        out.print()
        rows = stage.batch_size
        note(
            f"activations: of a forward pass of {stage.max_positions} positions (max_positions), which a step reaches "
            f"when its {rows} rows are longer than {-(-stage.max_positions // rows)} columns on average; measured on "
            "two small passes and extended"
        )
    note(
        "not counted: torch itself, the data, buffers of communication (DeepSpeed: reduce_bucket_size), the "
        "allocator's losses. With offload the optimizer's share is in the host's memory"
    )


def count_stage(talker: Talker, stage: StageConfig) -> StageParameters:
    """Apply a stage's freezing and count its trainable and frozen parameters, and those outside the engine."""
    from anytalk.train.freeze import apply_freeze
    from anytalk.train.losses import needs_parent

    report = {part.name: part for part in apply_freeze(talker.model, stage.train, stage.lora)}
    trainable = sum(part.trainable for part in report.values())
    whole = sum(part.total for part in report.values())
    beside = 0
    # Engines shard the stage's parts; an encoder that isn't one of them stays whole on each device.
    if "encoder" in report and "encoder" not in stage.parts:
        beside += report["encoder"].total
    frozen = whole - trainable - beside
    # The parent is a frozen copy of the backbone, which isn't sharded either.
    if needs_parent(stage):
        beside += report["backbone"].total
    return StageParameters(trainable, frozen, beside)


def plan_lines(counts: StageParameters, activations: int, precision: str) -> list[tuple[str, DeviceMemory]]:
    """Return the rows of a stage's table: a name and the memory of one device."""
    lines = [("one process, or one of several", plain_memory(counts, activations))]
    for zero_stage in (1, 2, 3):
        for world in WORLDS:
            name = f"ZeRO {zero_stage}, {world} device{'s' if world > 1 else ''}"
            lines.append((name, zero_memory(counts, zero_stage, world, precision, activations)))
    return lines


def _drop_lora(talker: Talker, stage: StageConfig) -> None:
    """Merge the LoRA layers back; their updates are still zero, so no weight changes."""
    from anytalk.train.lora import merge_lora

    for name in stage.lora:
        merge_lora(talker.model.parts()[name])
