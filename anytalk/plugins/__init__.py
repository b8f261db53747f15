"""Plugins: what may be offered (hookspecs), who offers it (manager), finding and building it (registry)."""

from anytalk.plugins.components import BuildContext, Component, Options, PartRef
from anytalk.plugins.hookspecs import hookimpl

__all__ = ["BuildContext", "Component", "Options", "PartRef", "hookimpl"]
