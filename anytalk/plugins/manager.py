"""Loads each plugin on its own, so that a broken one is a line in ``anytalk plugins`` and stops nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from types import ModuleType

import pluggy

from anytalk.errors import did_you_mean
from anytalk.packages import UNREADABLE
from anytalk.plugins.hookspecs import PROJECT, Hooks

ENTRY_POINT_GROUP = "anytalk"
BLOCK_VARIABLE = "ANYTALK_BLOCK_PLUGINS"
NO_PLUGINS_VARIABLE = "ANYTALK_NO_PLUGINS"
FIRST_PARTY_DISTRIBUTION = "anytalk"


@dataclass(frozen=True)
class PluginInfo:
    """Records where a loaded plugin comes from."""

    name: str  # entry point name
    distribution: str  # installed package it came from
    version: str  # that package's version
    hooks: tuple[str, ...]  # names of the hooks it implements


@dataclass
class Plugins:
    """Holds the plugins of one process: the pluggy manager, where they come from, and what failed to load and why."""

    manager: pluggy.PluginManager
    loaded: dict[str, PluginInfo] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    blocked: tuple[str, ...] = ()

    def register(self, module: ModuleType | object, name: str, distribution: str = "?", version: str = "?") -> None:
        """Register one plugin; what is wrong with it goes to :attr:`failures` and is never raised."""
        with self.blaming(name):
            self.manager.register(module, name=name)
            self.loaded[name] = PluginInfo(name, distribution, version, self._checked_hooks(module))
        # A plugin with an unknown hook is registered already; none of its hooks must be called.
        if name in self.failures and self.manager.has_plugin(name):
            self.manager.unregister(name=name)

    @contextmanager
    def blaming(self, name: str, doing: str = "") -> Iterator[None]:
        """Run a plugin's code in the block; whatever it raises goes to :attr:`failures`, except KeyboardInterrupt.

        `doing`, such as a hook's name, comes before the reason.
        """
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # foreign code may raise SystemExit, or a BaseException of its own
            self.failures[name] = f"{doing}: {one_line(error)}" if doing else one_line(error)

    @contextmanager
    def asking(self, name: str, doing: str = "") -> Iterator[None]:
        """As :meth:`blaming`, where the program's own output must not be disturbed: what is printed goes to stderr."""
        with redirect_stdout(sys.stderr), self.blaming(name, doing):
            yield

    def tell(self, hook: str, **arguments: object) -> None:
        """Call every observer of a hook; one that raises goes to :attr:`failures` and isn't called again.

        Observers only watch, so a broken one must not end a training run.
        """
        # Pluggy itself calls the hook that was registered last first.
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            name = implementation.plugin_name
            if name in self.failures:
                continue
            with self.blaming(name, hook):
                implementation.function(*(arguments[argument] for argument in implementation.argnames))

    def _checked_hooks(self, module: ModuleType | object) -> tuple[str, ...]:
        """Return the names of the hooks that `module` implements; PluginValidationError for an unknown hook.

        Pluggy alone registers a misspelt hook silently and never calls it.
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
    """Format an error as ``"ValueError: its message"``, without line breaks."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an exception's own __str__ may be broken
        text = ""
    return f"{type(error).__name__}: {text or 'no message'}"


def _entry_points(plugins: Plugins) -> list[importlib.metadata.EntryPoint]:
    """List the group's entry points, first-party ones first; files that can't be read become failures."""
    try:
        found = list(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
    except Exception:  # one malformed entry_points.txt hides those of all packages: read them one by one
        found = []
        for dist in importlib.metadata.distributions():
            with plugins.blaming(dist.name or "?", "its entry_points.txt can't be read"):
                found += dist.entry_points.select(group=ENTRY_POINT_GROUP)

    for name, reason in UNREADABLE.items():
        plugins.failures[name] = f"its entry_points.txt can't be read: {reason}"

    def order(entry_point: importlib.metadata.EntryPoint) -> tuple[bool, str]:
        dist = entry_point.dist
        # False sorts before True. A third party can't take a first-party plugin's name this way.
        return dist is None or dist.name != FIRST_PARTY_DISTRIBUTION, entry_point.name

    return sorted(found, key=order)


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def build_plugins(block: tuple[str, ...] | None = None, third_party: bool | None = None) -> Plugins:
    """Load the entry points of the group ``anytalk``.

    Args:
        block: Entry point names to skip; default: the environment variable ANYTALK_BLOCK_PLUGINS.
        third_party: Whether to load plugins of other packages; default: unless ANYTALK_NO_PLUGINS is set.
    """
    if block is None:
        block = _split(os.environ.get(BLOCK_VARIABLE, ""))
    if third_party is None:
        third_party = not os.environ.get(NO_PLUGINS_VARIABLE)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    plugins = Plugins(manager, blocked=block)
    for entry_point in _entry_points(plugins):
        dist = entry_point.dist
        distribution, version = (dist.name, dist.version) if dist is not None else ("?", "?")
        # Skipped plugins aren't even imported.
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
        with plugins.asking(entry_point.name):
            plugins.register(entry_point.load(), entry_point.name, distribution, version)
    return plugins
