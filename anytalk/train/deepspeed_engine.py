"""ZeRO stages 1, 2 and 3 (arXiv 1910.02054) through DeepSpeed. Imported only when a job asks for it."""

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
    """Return a DeepSpeed configuration file.

    Raises:
        ConfigError: it isn't there, isn't JSON, sets what a recipe sets, or DeepSpeed isn't installed.
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
    """The configuration file that ``accelerate launch --use_deepspeed`` names; accelerate itself is kept out of it."""
    if os.environ.pop("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return None
    named = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if named.lower() == "none":
        raise ConfigError(
            "accelerate was told to use DeepSpeed, but not with which configuration file",
            "name one: anytalk train ... --deepspeed examples/deepspeed/zero2.json",
        )
    return Path(named)


def complete(config: dict[str, Any], precision: str, clip_norm: float) -> dict[str, Any]:
    """Return a configuration file with what the loop decides filled in.

    The loop cuts steps into passes itself, as many as the rows need, so DeepSpeed's own accumulation is set to one.
    """
    filled = copy.deepcopy(config)
    filled.pop("train_batch_size", None)
    filled |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": clip_norm}
    filled.setdefault("zero_allow_untested_optimizer", True)
    filled.setdefault("zero_force_ds_cpu_optimizer", False)
    filled.setdefault("steps_per_print", 10**9)
    # Without the check DeepSpeed would take a step of infinite gradients in bf16.
    filled["bf16"] = {"enabled": True, "check_grad_overflow": True} if precision == "bf16" else {"enabled": False}
    filled["fp16"] = {"enabled": precision == "fp16"}
    return filled


class DeepSpeedEngine(Engine):
    """Optimizer state (1), gradients (2) and parameters (3) spread over devices."""

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
            os.environ.setdefault(name, value)  # one process that no launcher started
        if not torch.distributed.is_initialized():
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
        """DeepSpeed averages gradients over devices; our losses are shares of a sum."""
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        self.engine.backward(loss * self.world)

    def step(self, skip: bool) -> float:
        """DeepSpeed leaves out a step whose gradient norm is not finite by itself."""
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def save(self, folder: Path) -> None:
        """DeepSpeed's own format, which is pickled: only DeepSpeed can put spread state together again."""
        self.engine.save_checkpoint(str(folder), tag=_TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """See the contract (TalkerError: a checkpoint of another number of devices or another ZeRO stage)."""
        try:
            path, _ = self.engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)
        except Exception as error:  # whatever DeepSpeed makes of a checkpoint that doesn't fit
            raise _misfit(folder, str(error)) from None
        if path is None:
            raise _misfit(folder, "it holds no state of DeepSpeed")

    def trained(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        found = {}
        for name, parameter in self.parameters.items():
            whole = safe_get_full_fp32_param(parameter)
            assert whole is not None, name
            if self.is_main:
                found[name] = whole.detach().float().cpu().clone().view(getattr(parameter, "ds_shape", parameter.shape))
        return found


def _do_without_a_compiler() -> None:
    """On a CPU DeepSpeed compiles a faster way to reduce, and stops where it can't; gloo does as well."""
    import deepspeed.ops

    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if shutil.which("g++") is None or shutil.which("ninja") is None or not headers.is_file():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _hush() -> None:
    """Leave out two remarks that come again and again and concern nobody here."""
    # Names of torch's that DeepSpeed still uses.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # A batch needs no gradient, so nothing has to be found in it.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "unknown inputs or outputs type" not in record.getMessage())


def _misfit(folder: Path, reason: str) -> TalkerError:
    return TalkerError(
        f"checkpoint '{folder}' can't be resumed by this job: {' '.join(reason.split())}",
        "resume with the same number of devices and the same DeepSpeed file, or add --restart",
    )
