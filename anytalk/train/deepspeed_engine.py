"""Run ZeRO stages 1, 2 and 3 (arXiv 1910.02054) through DeepSpeed. Imported only if a job uses it."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import sysconfig
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anytalk.data.batches import Batch
from anytalk.errors import ConfigError, TalkerError
from anytalk.plugins.optional import require
from anytalk.train.engine import Engine
from anytalk.train.losses import LossModule

if TYPE_CHECKING:
    from accelerate import Accelerator

_TAG = "engine"


def read_deepspeed(path: Path) -> dict[str, Any]:
    """Read a DeepSpeed configuration file.

    Raises:
        ConfigError: the file is missing, isn't JSON or sets what a recipe sets, or DeepSpeed isn't installed.
    """
    require("--deepspeed", "deepspeed", "deepspeed")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"'{path}' can't be read", "ready files: examples/deepspeed/zero1.json ... zero3.json"
        ) from None
    except ValueError as error:
        raise ConfigError(f"'{path}' is not JSON: {error}", "fix the file") from None
    if not isinstance(config, dict):
        raise ConfigError(f"'{path}' holds no JSON object", "see examples/deepspeed/")
    for key in ("optimizer", "scheduler"):
        if key in config:
            raise ConfigError(f"'{path}' sets '{key}', which the recipe's stages set", f"remove '{key}' from the file")
    return config


def launched_config() -> Path | None:
    """Return the configuration file of ``accelerate launch --use_deepspeed``, or None.

    The variable is removed, because accelerate would otherwise set up DeepSpeed itself.
    """
    if os.environ.pop("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return None
    named = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if named.lower() == "none":
        raise ConfigError(
            "accelerate is set to use DeepSpeed, but without a configuration file",
            "name one: anytalk train ... --deepspeed examples/deepspeed/zero2.json",
        )
    return Path(named)


def complete(config: dict[str, Any], precision: str, clip_norm: float) -> dict[str, Any]:
    """Return the configuration with the settings that the loop decides filled in.

    The loop splits steps into as many passes as the rows need, so DeepSpeed's gradient accumulation is set to one.
    """
    filled = copy.deepcopy(config)
    filled.pop("train_batch_size", None)
    filled |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": clip_norm}
    filled.setdefault("zero_allow_untested_optimizer", True)
    filled.setdefault("zero_force_ds_cpu_optimizer", False)
    filled.setdefault("steps_per_print", 10**9)
    # Without this check DeepSpeed applies infinite gradients in bf16.
    filled["bf16"] = {"enabled": True, "check_grad_overflow": True} if precision == "bf16" else {"enabled": False}
    filled["fp16"] = {"enabled": precision == "fp16"}
    return filled


class DeepSpeedEngine(Engine):
    """Shards optimizer state (stage 1), gradients (2) and parameters (3) over devices."""

    wraps_module = True

    def __init__(
        self,
        accelerator: Accelerator,
        module: LossModule,
        optimizer: torch.optim.Optimizer,
        clip: float,
        config: dict[str, Any],
    ) -> None:
        super().__init__(accelerator, module, optimizer, clip)
        import deepspeed

        on_gpu = accelerator.device.type == "cuda"
        for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
            os.environ.setdefault(name, value)  # for one process that no launcher started
        if not torch.distributed.is_initialized():
            # A store inside the process needs no port.
            store = torch.distributed.HashStore()  # type: ignore[attr-defined]
            torch.distributed.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=0, world_size=1)
        _hush()
        _do_without_a_compiler()
        deepspeed.init_distributed()
        filled = complete(config, accelerator.mixed_precision, clip)
        self.engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=filled)

    def set_rate(self, rate: float) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate

    def forward(self, batch: Batch, factors: Tensor) -> tuple[Tensor, Tensor]:
        loss, sums = self.engine(batch, factors)
        return loss, sums

    def backward(self, loss: Tensor, last: bool) -> None:
        """Differentiate a pass, times the number of devices: DeepSpeed averages gradients, but ours are summed."""
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        self.engine.backward(loss * self.world)

    def step(self, skip: bool) -> float:
        """Apply the gradients; DeepSpeed itself skips a step whose gradient norm is not finite."""
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def save(self, folder: Path) -> None:
        """Write a checkpoint in DeepSpeed's own, pickled format: only DeepSpeed can assemble sharded state."""
        self.engine.save_checkpoint(str(folder), tag=_TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Load a checkpoint; TalkerError if it was saved with another number of devices or another ZeRO stage."""
        try:
            path, _ = self.engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)
        except Exception as error:  # DeepSpeed raises many kinds of errors if a checkpoint doesn't fit
            raise _misfit(folder, str(error)) from None
        if path is None:
            raise _misfit(folder, "it holds no state of DeepSpeed")

    def trained(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        found = {}
        for name, parameter in self.parameters.items():
            # Collecting needs every process; only the main one keeps the result.
            whole = safe_get_full_fp32_param(parameter)
            assert whole is not None, name
            if self.is_main:
                found[name] = whole.detach().float().cpu().clone().view(getattr(parameter, "ds_shape", parameter.shape))
        return found


def _do_without_a_compiler() -> None:
    """Keep DeepSpeed from compiling its shared-memory reduction for CPUs if there is no compiler; gloo replaces it."""
    import deepspeed.ops

    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if shutil.which("g++") is None or shutil.which("ninja") is None or not headers.is_file():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _hush() -> None:
    """Silence two repeated messages that users can do nothing about."""
    # DeepSpeed still uses deprecated names of torch.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # DeepSpeed looks for tensors that need gradients in its input; a batch has none.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "unknown inputs or outputs type" not in record.getMessage())


def _misfit(folder: Path, reason: str) -> TalkerError:
    return TalkerError(
        f"checkpoint '{folder}' can't be resumed by this job: {' '.join(reason.split())}",
        "resume with the same number of devices and the same DeepSpeed file, or add --restart",
    )
