"""Loads plugins: hookspecs says what may be offered, manager who offers it, registry finds and builds it."""

from anytalk.plugins.components import BuildContext, Component, Options, PartRef
from anytalk.plugins.hookspecs import hookimpl

__all__ = ["BuildContext", "Component", "Options", "PartRef", "hookimpl"]
