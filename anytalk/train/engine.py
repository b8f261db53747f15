"""Define engines, which run a loss module on one process, on several, or under DeepSpeed; the loop is the same for all.

An optimizer step consists of a forward and a backward pass for each batch, then :meth:`Engine.step`. Each device
divides by the tokens of the whole step, so gradients only have to be summed over devices, once per step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from anytalk.data.batches import Batch
from anytalk.errors import TalkerError
from anytalk.plugins.optional import require
from anytalk.train.losses import LossModule

if TYPE_CHECKING:
    from accelerate import Accelerator

_TENSORS = "state.safetensors"


class Engine(ABC):
    """Runs a :class:`LossModule` on the devices of a job."""

    wraps_module = False
    """Whether the engine changes the module: its parameters may be sharded or in half precision."""

    def __init__(
        self, accelerator: Accelerator, module: LossModule, optimizer: torch.optim.Optimizer, clip_norm: float
    ) -> None:
        self.accelerator, self.module, self.optimizer, self.clip_norm = accelerator, module, optimizer, clip_norm
        self.parameters = {n: p for n, p in module.model.named_parameters() if p.requires_grad}

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes files and prints."""
        return bool(self.accelerator.is_main_process)

    def sum(self, vector: Tensor) -> Tensor:
        """Return a vector summed over all devices."""
        if self.world == 1:
            return vector
        total: Tensor = self.accelerator.reduce(vector.to(self.accelerator.device), reduction="sum")
        return total.to(vector.device)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        self.accelerator.wait_for_everyone()

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @abstractmethod
    def forward(self, batch: Batch, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a pass; see :meth:`LossModule.forward`."""

    @abstractmethod
    def backward(self, loss: Tensor, last: bool) -> None:
        """Differentiate the loss of a pass; `last` marks the last pass of a step."""

    @abstractmethod
    def step(self, skip: bool) -> float:
        """Sum gradients over devices, clip them, update the parameters and clear the gradients; with `skip` only clear.

        Returns:
            The gradient norm before clipping; not finite if the step was skipped.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trainable parameters and the optimizer's state; every process must call this."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Restore what :meth:`save` wrote; every process must call this."""

    @abstractmethod
    def trained(self) -> dict[str, Tensor]:
        """Return the trained parameters by name, float32, on the main process's CPU; every process must call this."""


class PlainEngine(Engine):
    """Runs on one process, or on several that each hold the whole model (data parallel)."""

    def __init__(self, accelerator: Accelerator, module: LossModule, optimizer: torch.optim.Optimizer, clip: float):
        super().__init__(accelerator, module, optimizer, clip)
        self._prepared = accelerator.prepare_optimizer(optimizer)

    def forward(self, batch: Batch, factors: Tensor) -> tuple[Tensor, Tensor]:
        with self.accelerator.autocast():
            loss, sums = self.module(batch, factors)
        return loss, sums

    def backward(self, loss: Tensor, last: bool) -> None:
        if loss.requires_grad:
            self.accelerator.backward(loss)

    def step(self, skip: bool) -> float:
        norm = float("nan")
        if not skip:
            parameters = list(self.parameters.values())
            if self.world > 1:
                _sum_gradients(parameters)
            norm = self._clip(parameters)
            # In fp16 the gradient scaler skips bad steps itself and has to see them to lower its scale.
            if self.accelerator.scaler is not None or torch.isfinite(torch.tensor(norm)):
                self._prepared.step()
        self._prepared.zero_grad(set_to_none=True)
        return norm

    def _clip(self, parameters: list[nn.Parameter]) -> float:
        """Clip the gradients' norm and return the norm before clipping; gradients within the limit stay untouched."""
        self.accelerator.unscale_gradients()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if norm > self.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        return float(norm)

    def save(self, folder: Path) -> None:
        """Write one safetensors file on the main process; all processes hold the same values. Nothing is pickled."""
        if not self.is_main:
            return
        tensors = {f"param.{n}": p.detach().cpu().contiguous() for n, p in self.parameters.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optim.{index}.{key}": torch.as_tensor(v).cpu().contiguous() for key, v in state.items()}
        scaler = self.accelerator.scaler
        if scaler is not None:
            tensors |= {f"scaler.{key}": torch.tensor(float(v)) for key, v in scaler.state_dict().items()}
        safetensors.torch.save_file(tensors, str(folder / _TENSORS))

    def load(self, folder: Path) -> None:
        tensors = safetensors.torch.load_file(str(folder / _TENSORS))
        held = {key.removeprefix("param."): value.shape for key, value in tensors.items() if key.startswith("param.")}
        other = sorted(held.items() ^ {name: value.shape for name, value in self.parameters.items()}.items())
        if other:
            raise TalkerError(
                f"checkpoint '{folder}' holds other parameters than the stage trains: {other[0][0]}"
                + (f" and {len(other) - 1} more" if len(other) > 1 else ""),
                "give the parts of talker.yaml their former options, or add --restart to begin the stage anew",
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"param.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optim."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        scaler = self.accelerator.scaler
        if scaler is not None:
            kept = {key: type(v)(tensors[f"scaler.{key}"].item()) for key, v in scaler.state_dict().items()}
            scaler.load_state_dict(kept)

    def trained(self) -> dict[str, Tensor]:
        return {n: p.detach().float().cpu() for n, p in self.parameters.items()}


_BUCKET_ELEMENTS = 2**24  # 64 MiB of float32; one call for many small gradients


def _sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Sum gradients over processes in flat buckets; a parameter that this process didn't use counts as zero.

    DistributedDataParallel would need to know which parameters a pass uses, and they differ between devices: one may
    have no rows with speech, or none with a spoken answer.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    bucket: list[Tensor] = []
    for i, parameter in enumerate(parameters):
        assert parameter.grad is not None
        bucket.append(parameter.grad)
        if sum(g.numel() for g in bucket) >= _BUCKET_ELEMENTS or i == len(parameters) - 1:
            flat = torch.cat([g.flatten() for g in bucket])
            torch.distributed.all_reduce(flat)
            for gradient, piece in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(piece.view_as(gradient))
            bucket = []


def make_accelerator(precision: str, cpu: bool) -> Accelerator:
    """Create accelerate's Accelerator for this process.

    Args:
        precision: ``"no"``, ``"bf16"`` or ``"fp16"``.

    Raises:
        ConfigError: a package that training needs is not installed.
    """
    require("training", "train", "accelerate", "tensorboard", "matplotlib")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # accelerate keeps its settings for the whole process, but the next stage may use another precision.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision, cpu=cpu)
