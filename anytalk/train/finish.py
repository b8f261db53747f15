"""Finish a stage: write its curve and log, merge low-rank updates and save the talker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from anytalk.model.config import StageRecord, read_config
from anytalk.model.talker import Talker, load_talker, save_talker
from anytalk.train.checkpoint import StageState, remove_checkpoint
from anytalk.train.config import StageConfig
from anytalk.train.curves import draw_curve
from anytalk.train.freeze import apply_freeze
from anytalk.train.lora import merge_lora, save_lora
from anytalk.train.stage import Stage

_AVERAGED_STEPS = 5
"""Number of steps at each end of a stage over which the reported loss is averaged."""


def finish_stage(stage: Stage, state: StageState) -> StageRecord:
    """Write curve, log and talker and remove the checkpoint, on the main process; every process must call this."""
    talker, folder, config, engine = stage.talker, stage.folder, stage.config, stage.engine
    losses = [entry["loss"] for entry in state.log if "loss" in entry]  # a skipped step may have none
    record = StageRecord(
        name=config.name,
        trained=config.parts,
        steps=config.steps,
        loss_first=_mean(losses[:_AVERAGED_STEPS]),
        loss_last=_mean(losses[-_AVERAGED_STEPS:]),
        seconds=round(state.seconds, 1),
        curve=f"history/{config.name}.png",
    )
    # Collecting the parameters needs every process.
    tensors = engine.trained() if engine.wraps_module else {}
    if engine.is_main:
        _write_history(stage, state.log)
        whole = _unwrapped(talker, folder, config, tensors) if engine.wraps_module else talker
        whole.model.eval()
        for name in config.lora:
            part = whole.model.parts()[name]
            save_lora(part, folder / "history" / f"{config.name}.{name}.lora.safetensors")
            merge_lora(part)
        save_talker(whole, folder, trained=set(config.parts), record=record)
        remove_checkpoint(stage.checkpoint)
    engine.wait()
    # The other processes go on to the next stage with the same plain layers. An engine that wraps the module may have
    # sharded them; the next stage then begins with a talker that is loaded again.
    if not engine.is_main and not engine.wraps_module:
        for name in config.lora:
            merge_lora(talker.model.parts()[name])
    # Saving added this stage to the configuration.
    talker.config = read_config(folder)
    if engine.is_main:
        stage.tell("stage_finished", folder=folder)
    return record


def _unwrapped(talker: Talker, folder: Path, config: StageConfig, tensors: dict[str, Tensor]) -> Talker:
    """Load a plain talker with the trained parameters; the engine's own module may be sharded or in half precision."""
    plain = load_talker(folder, registry=talker.registry)
    apply_freeze(plain.model, config.train, config.lora)
    parameters = dict(plain.model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
    return plain


def _write_history(stage: Stage, log: Sequence[dict[str, float]]) -> None:
    folder, config = stage.folder, stage.config
    history = folder / "history"
    history.mkdir(parents=True, exist_ok=True)
    losses = {loss.name: loss.streams for loss in stage.module.losses}
    draw_curve(history / f"{config.name}.png", f"{folder.name}: stage '{config.name}'", log, losses)
    (history / f"{config.name}.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log), encoding="utf-8")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
