"""First-party recipes: the YAML files beside this module, as data (``train.config.Recipe`` validates them)."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

__all__ = ["DEMO", "LAPTOP", "PAPER", "PAPER_AUTHORS", "SINGLE_STAGE"]


def _read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    return data


PAPER = _read("paper")
"""The paper's three stages and the final annealing, with its figures (sections 3.3 and 4.2)."""

PAPER_AUTHORS = _read("paper-authors")
"""The same with what the authors say in their issue tracker."""

SINGLE_STAGE = _read("single-stage")
"""Everything but the encoder at once (SLAM-Omni)."""

LAPTOP = _read("laptop")
"""Ears, voice, then low-rank updates of the language model: an evening on a laptop."""

DEMO = _read("demo")
"""Ears, then voice, in a few minutes on two cores; the language model is frozen."""
