"""anytalk gives any language model ears and a voice; every part is a plugin.

This module holds the public names. Importing it doesn't import torch: names that need torch load on first use.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from anytalk.errors import AnytalkError
from anytalk.packages import pass_over_unreadable

pass_over_unreadable()  # before anything looks for plugins, as pydantic does when it is imported

from anytalk.plugins import BuildContext, Component, Options, PartRef, hookimpl  # noqa: E402

try:
    __version__ = version("anytalk")
except PackageNotFoundError:  # running from a checkout that was never installed
    __version__ = "0+unknown"

__all__ = [
    "AnytalkError",
    "BuildContext",
    "Component",
    "Options",
    "PartRef",
    "__version__",
    "attach",
    "hookimpl",
    "load_talker",
]

# Both import torch, which takes seconds, so they are imported on first use.
_LAZY = {"attach": "anytalk.model.attach", "load_talker": "anytalk.model.talker"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'anytalk' has no attribute '{name}'")
