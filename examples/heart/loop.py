"""The loop of every stage: seeded by the step's number, stopped and resumed at any step with the same result."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[[int], tuple[Tensor, dict[str, float]]]
"""Step's number -> the loss, and what is told of it."""


@dataclass
class Stage:
    """A training of one stage.

    Attributes:
        out: Where the checkpoint and the log go.
        name: Of both.
        parts: What is trained.
        steps: Budget.
        learning_rate: Highest; after a warm-up half a cosine falls to 3 % of it.
        extra: Tensors that change beside the weights, such as how often codes are used.
        decays: Whether the rate falls at all.
        every_s: Seconds between checkpoints.
        tell_every: Steps between lines of the log.
    """

    out: Path
    name: str
    parts: Mapping[str, nn.Module]
    steps: int
    learning_rate: float
    extra: dict[str, Tensor] = field(default_factory=dict)
    every_s: float = 120.0
    tell_every: int = 20
    warmup_steps: int = 50

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        falling = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * falling

    @property
    def checkpoint(self) -> Path:
        """The file that a resumed training begins with; of a finished one, the file of its weights."""
        return self.out / f"{self.name}.pt"

    def run(self, step_of: Step) -> bool:
        """Train to the end, or until a signal; whether it is the end."""
        self.out.mkdir(parents=True, exist_ok=True)
        weights = [weight for part in self.parts.values() for weight in part.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, self.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
        step = self._resume(optimizer)
        stopped: list[int] = []
        before = {
            which: signal.signal(which, lambda number, _: stopped.append(number))
            for which in (signal.SIGTERM, signal.SIGINT)
        }
        saved, told = time.monotonic(), {}
        try:
            while step < self.steps and not stopped:
                for group in optimizer.param_groups:
                    group["lr"] = self.rate(step)
                torch.manual_seed(step)
                loss, parts = step_of(step)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                step += 1
                told = _running(told, {"loss": loss.item(), **parts})
                if step % self.tell_every == 0:
                    self._tell(step, told)
                if time.monotonic() - saved > self.every_s:
                    self._save(step, optimizer)
                    saved = time.monotonic()
            self._save(step, optimizer)
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)
        return step >= self.steps

    def _tell(self, step: int, told: Mapping[str, float]) -> None:
        row = {"step": step, **{name: round(value, 5) for name, value in told.items()}}
        with (self.out / f"{self.name}.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def _save(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": step, "optimizer": optimizer.state_dict(), "extra": self.extra}
        beside = self.checkpoint.with_suffix(".part")
        torch.save(state, beside)
        beside.replace(self.checkpoint)

    def _resume(self, optimizer: torch.optim.Optimizer) -> int:
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        optimizer.load_state_dict(state["optimizer"])
        for name, value in state["extra"].items():
            self.extra[name].copy_(value)
        return int(state["step"])


def _running(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Take a running mean over some 20 steps of what was told; what this step doesn't tell stays.

    Figures of held-out texts are told once in many steps and of all texts at once: they are taken as they are.
    """

    def mean(name: str, value: float) -> float:
        return value if name.startswith("held_out") else 0.95 * before.get(name, value) + 0.05 * value

    return {**before, **{name: mean(name, value) for name, value in now.items()}}


def trained(out: Path, name: str, parts: Mapping[str, nn.Module]) -> int:
    """Load what a stage has learnt so far -> its steps.

    Raises:
        SystemExit: the stage hasn't begun.
    """
    path = out / f"{name}.pt"
    if not path.exists():
        raise SystemExit(f"Error: '{path}' is missing: run the stage that writes it first (examples/heart/train.sh)")
    state = torch.load(path, weights_only=True)
    for part_name, part in parts.items():
        part.load_state_dict(state[part_name])
    return int(state["step"])
