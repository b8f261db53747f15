"""Loads the first-party recipes, the YAML files in this folder, as data (``train.config.Recipe`` validates them)."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

__all__ = ["DEMO", "LAPTOP", "PAPER", "PAPER_AUTHORS", "SINGLE_STAGE"]


def _read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    return data


PAPER = _read("paper")
"""The paper's three stages and the final annealing, with its values (sections 3.3 and 4.2)."""

PAPER_AUTHORS = _read("paper-authors")
"""The same stages with the values that the authors give in their issue tracker."""

SINGLE_STAGE = _read("single-stage")
"""One stage that trains everything but the encoder (SLAM-Omni)."""

LAPTOP = _read("laptop")
"""Trains listening, speaking, then low-rank updates of the language model: an evening on a laptop."""

DEMO = _read("demo")
"""Trains listening, then speaking, in a few minutes on two cores; the language model is frozen."""
