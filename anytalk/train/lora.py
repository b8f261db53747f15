"""Add low-rank updates (LoRA, arXiv 2106.09685) to a part through peft, and merge them when a stage ends."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from anytalk.errors import ConfigError
from anytalk.plugins.optional import require
from anytalk.train.config import LoraConfig

_MARK = "lora_"


def is_lora(name: str) -> bool:
    """Return whether the parameter of this name is a low-rank update."""
    return _MARK in name


def add_lora(part: nn.Module, config: LoraConfig, name: str) -> None:
    """Add updates to the linear layers of a part; they start at zero, so its outputs don't change.

    Args:
        part: Backbone or encoder, changed in place.

    Raises:
        ConfigError: peft is missing, or no layer has such a name.
    """
    require("lora", "train", "peft")
    import peft

    if any(is_lora(key) for key, _ in part.named_parameters()):
        return  # a stage that is resumed with the same talker in memory
    targets = config.targets
    if targets == "all-linear":
        targets = sorted(key for key, module in part.named_modules() if isinstance(module, nn.Linear))
        targets = [key for key in targets if not _is_output(part, key)]
    wanted = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
    )
    try:
        # All processes of a job must start with the same updates, whatever random numbers they drew before.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            peft.inject_adapter_in_model(wanted, part)
    except ValueError as error:
        linear = sorted({k.rsplit(".", 1)[-1] for k, m in part.named_modules() if isinstance(m, nn.Linear)})
        raise ConfigError(
            f"lora on '{name}': {' '.join(str(error).split())}", f"its linear layers are called: {', '.join(linear)}"
        ) from None
    finally:
        if "peft_config" in vars(part):  # otherwise peft takes the next stage's updates for a second adapter
            del part.peft_config


def _is_output(part: nn.Module, key: str) -> bool:
    """Return whether a layer shares its weight with an embedding (a tied head), which an update would untie."""
    weight = part.get_submodule(key).weight
    return any(m.weight is weight for m in part.modules() if isinstance(m, nn.Embedding)) or key.endswith("lm_head")


@torch.no_grad()
def merge_lora(part: nn.Module) -> None:
    """Add the updates to the weights and restore the plain layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for key, module in list(part.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)  # raises if a merged weight isn't finite
            parent = part.get_submodule(key.rpartition(".")[0])
            setattr(parent, key.rpartition(".")[2], module.get_base_layer())


def save_lora(part: nn.Module, path: Path) -> None:
    """Write the updates to a small file of their own; call this before :func:`merge_lora`."""
    import safetensors.torch

    tensors = {k: p.detach().cpu().contiguous() for k, p in part.named_parameters() if is_lora(k)}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, str(path))
