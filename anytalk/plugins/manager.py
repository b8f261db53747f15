"""Loads plugins, each in its own ``try``: a broken one costs a line in ``anytalk plugins`` and nothing else."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass, field
from types import ModuleType

import pluggy

from anytalk.errors import did_you_mean
from anytalk.plugins.hookspecs import PROJECT, Hooks

ENTRY_POINT_GROUP = "anytalk"
BLOCK_VARIABLE = "ANYTALK_BLOCK_PLUGINS"
NO_PLUGINS_VARIABLE = "ANYTALK_NO_PLUGINS"
FIRST_PARTY_DISTRIBUTION = "anytalk"


@dataclass(frozen=True)
class PluginInfo:
    """Provenance of one loaded plugin.

    Attributes:
        name: Entry point name.
        distribution: Installed package it came from.
        version: That package's version.
        hooks: Names of the hooks it implements.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]


@dataclass
class Plugins:
    """The plugins of one process: the pluggy manager, provenance, and what failed to load and why."""

    manager: pluggy.PluginManager
    loaded: dict[str, PluginInfo] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    blocked: tuple[str, ...] = ()

    def register(self, module: ModuleType | object, name: str, distribution: str = "?", version: str = "?") -> None:
        """Add one plugin; what is wrong with it is kept in :attr:`failures`, never raised."""
        try:
            self.manager.register(module, name=name)
            hooks = self._checked_hooks(module)
        except Exception as error:  # a plugin is foreign code: whatever it raises is its failure, not ours
            self.failures[name] = one_line(error)
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            return
        self.loaded[name] = PluginInfo(name, distribution, version, hooks)

    def tell(self, hook: str, **arguments: object) -> None:
        """Call every observer of a hook; one that raises is kept in :attr:`failures` and not called again.

        Observers only look: a broken one must not end a training run.
        """
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            name = implementation.plugin_name
            if name in self.failures:
                continue
            try:
                implementation.function(*(arguments[argument] for argument in implementation.argnames))
            except Exception as error:  # foreign code
                self.failures[name] = f"{hook}: {one_line(error)}"

    def _checked_hooks(self, module: ModuleType | object) -> tuple[str, ...]:
        """Names of the hooks that `module` implements; PluginValidationError for one we don't know.

        Stock pluggy registers a misspelt hook silently and never calls it.
        """
        known = {name for name in dir(Hooks) if not name.startswith("_")}
        hooks = tuple(sorted(caller.name for caller in self.manager.get_hookcallers(module) or []))
        for hook in hooks:
            if hook not in known:
                raise pluggy.PluginValidationError(
                    module,
                    f"it implements a hook '{hook}' that anytalk doesn't have{did_you_mean(hook, sorted(known))}",
                )
        return hooks


def one_line(error: BaseException) -> str:
    """``"ValueError: what it said"``, line breaks removed."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"


def _first_party_first(entry_point: importlib.metadata.EntryPoint) -> tuple[bool, str]:
    dist = entry_point.dist
    return dist is None or dist.name != FIRST_PARTY_DISTRIBUTION, entry_point.name


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def build_plugins(block: tuple[str, ...] | None = None, third_party: bool | None = None) -> Plugins:
    """Load the entry points of the group ``anytalk``.

    Args:
        block: Entry point names to leave out; default: the environment variable ANYTALK_BLOCK_PLUGINS.
        third_party: Load plugins of other packages too; default: unless ANYTALK_NO_PLUGINS is set.
    """
    if block is None:
        block = _split(os.environ.get(BLOCK_VARIABLE, ""))
    if third_party is None:
        third_party = not os.environ.get(NO_PLUGINS_VARIABLE)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    plugins = Plugins(manager, blocked=block)
    for entry_point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=_first_party_first):
        dist = entry_point.dist
        distribution, version = (dist.name, dist.version) if dist is not None else ("?", "?")
        if entry_point.name in block or (distribution != FIRST_PARTY_DISTRIBUTION and not third_party):
            continue
        taken = plugins.loaded.get(entry_point.name)
        if taken is not None or entry_point.name in plugins.failures:
            # An editable install beside an installed one lists the same entry point twice.
            if taken is not None and taken.distribution != distribution:
                plugins.failures[f"{entry_point.name} ({distribution})"] = (
                    f"the plugin name '{entry_point.name}' is taken by {taken.distribution}"
                )
            continue
        try:
            module = entry_point.load()
        except (Exception, SystemExit) as error:  # as above; a script without a main guard exits when imported
            plugins.failures[entry_point.name] = one_line(error)
            continue
        plugins.register(module, entry_point.name, distribution, version)
    return plugins
