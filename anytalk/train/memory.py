"""Compute what a stage keeps in memory on each device.

The figures follow the ZeRO paper (arXiv 1910.02054, sections 3.1 and 5): in mixed precision a parameter takes 2 bytes,
its gradient 2, and Adam 12 (a float32 copy and two moments). ZeRO spreads Adam's share (stage 1), also gradients (2),
also parameters (3) over the devices. Activations are not spread. Communication buffers and the allocator's overhead are
not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from anytalk.errors import ConfigError

_MOMENTS = 2
_FLOAT32 = 4
_PRECISION_BYTES = {"no": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class StageParameters:
    """Counts the parameters of a stage by how they are stored."""

    trainable: int  # trainable ones
    frozen: int  # frozen ones inside the engine
    # Frozen ones outside the engine: a frozen encoder, the teacher of a distillation. They stay float32 and unsharded.
    beside: int = 0


@dataclass(frozen=True)
class DeviceMemory:
    """Counts bytes on one device."""

    parameters: int  # of all parameters, including frozen ones
    gradients: int  # of the trainable parameters
    optimizer: int  # AdamW's moments and, under ZeRO, the float32 copy
    activations: int  # kept by a forward pass for its backward pass, and temporaries

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations


def plain_memory(counts: StageParameters, activations: int = 0) -> DeviceMemory:
    """Return the memory of one device without DeepSpeed; on several devices each needs as much.

    Everything is float32 and whole: mixed precision is torch's autocast, which shrinks activations, not parameters.
    """
    whole = counts.trainable + counts.frozen + counts.beside
    return DeviceMemory(
        parameters=_FLOAT32 * whole,
        gradients=_FLOAT32 * counts.trainable,
        optimizer=_MOMENTS * _FLOAT32 * counts.trainable,
        activations=activations,
    )


def zero_memory(
    counts: StageParameters, zero_stage: int, world: int, precision: str = "no", activations: int = 0
) -> DeviceMemory:
    """Return the memory of one device under DeepSpeed.

    Args:
        precision: ``"no"`` (float32), ``"bf16"`` or ``"fp16"``; DeepSpeed keeps parameters and gradients in it.

    Raises:
        ConfigError: another ZeRO stage or precision, or no device.
    """
    if zero_stage not in (1, 2, 3) or world < 1 or precision not in _PRECISION_BYTES:
        raise ConfigError(
            f"there is no plan for ZeRO stage {zero_stage} on {world} devices in precision '{precision}'",
            f"stages: 1, 2, 3; precisions: {', '.join(_PRECISION_BYTES)}",
        )
    num_bytes = _PRECISION_BYTES[precision]
    parameters = num_bytes * (counts.trainable + counts.frozen)
    gradients = num_bytes * counts.trainable
    # DeepSpeed makes the float32 copy in float32 training too (zero/stage_1_and_2.py, single_partition_of_fp32_groups).
    optimizer = (1 + _MOMENTS) * _FLOAT32 * counts.trainable
    return DeviceMemory(
        parameters=(_shared(parameters, world) if zero_stage == 3 else parameters) + _FLOAT32 * counts.beside,
        gradients=_shared(gradients, world) if zero_stage >= 2 else gradients,
        optimizer=_shared(optimizer, world),
        activations=activations,
    )


def _shared(num_bytes: int, world: int) -> int:
    """Return one device's share, rounded up."""
    return -(-num_bytes // world)


@dataclass(frozen=True)
class Growth:
    """Describes memory as a linear function of the positions (rows x columns) of a pass."""

    fixed: float  # bytes for any pass, e.g. the gradient of the largest table
    per_position: float  # bytes per position

    def at(self, positions: int) -> int:
        return max(0, round(self.fixed + self.per_position * positions))


def growth(small: tuple[int, int], large: tuple[int, int]) -> Growth:
    """Return the line through two measurements, each a pair of positions and bytes."""
    (few, low), (many, high) = small, large
    slope = (high - low) / (many - few)
    return Growth(low - slope * few, slope)


def peak(small: tuple[int, list[int]], large: tuple[int, list[int]], positions: int) -> int:
    """Return the most bytes at any moment of a pass, extrapolated from two smaller passes of the same program.

    Which moment needs most depends on the size: in a small pass it may be the end, where a large table gets its
    gradient, in a large one the loss. So each moment is extrapolated separately.

    Args:
        small: Positions, and bytes in use at each moment.
        large: The same for a larger pass. If it has another number of moments, its peak is scaled in proportion, which
            never gives too little.
        positions: Positions of the pass to estimate.
    """
    (few, before), (many, after) = small, large
    if len(before) != len(after):
        return round(max(after) * max(1.0, positions / many))
    return max(growth((few, a), (many, b)).at(positions) for a, b in zip(before, after, strict=True))
