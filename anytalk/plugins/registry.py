"""Finds parts by name, validates their options and builds them. Imports no torch by itself."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from anytalk.errors import PluginError, UnknownNameError, did_you_mean
from anytalk.plugins.components import BuildContext, Component, Options, PartRef
from anytalk.plugins.manager import BLOCK_VARIABLE, Plugins, build_plugins, one_line
from anytalk.plugins.settings import validated

KINDS: dict[str, str] = {
    "backbone": "register_backbones",
    "speech encoder": "register_speech_encoders",
    "input adapter": "register_input_adapters",
    "ears": "register_ears",
    "hearing": "register_hearings",
    "output adapter": "register_output_adapters",
    "heads": "register_heads",
    "codec": "register_codecs",
    "voice": "register_voices",
    "synthesizer": "register_synthesizers",
    "transcriber": "register_transcribers",
    "recipe": "register_recipes",
    "data source": "register_data_sources",
    "augmentation": "register_augmentations",
}
"""Maps each kind of component to the hook that registers it."""


@dataclass(frozen=True)
class Registered:
    """Records a component and the plugin that offers it."""

    component: Component
    plugin: str
    distribution: str
    version: str


class Registry:
    """Holds all components of a set of plugins, by kind and name."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self._by_kind: dict[str, dict[str, list[Registered]]] = {}

    def components(self, kind: str) -> dict[str, list[Registered]]:
        """Map each name to the plugins that offer it, sorted by name; more than one is a clash."""
        if kind not in KINDS:
            raise UnknownNameError(f"unknown kind '{kind}'", f"kinds: {', '.join(KINDS)}")
        if kind not in self._by_kind:
            self._by_kind[kind] = self._collect(kind)
        return self._by_kind[kind]

    def _collect(self, kind: str) -> dict[str, list[Registered]]:
        found: dict[str, list[Registered]] = {}
        for implementation in getattr(self.plugins.manager.hook, KINDS[kind]).get_hookimpls():
            name = implementation.plugin_name
            info = self.plugins.loaded.get(name)
            if info is None:
                continue
            components: list[Component] = []
            # A hook that raises offers nothing, and the others still count.
            with self.plugins.asking(name, KINDS[kind]):
                components = [_checked(component) for component in implementation.function()]
            for component in components:
                entry = Registered(component, name, info.distribution, info.version)
                found.setdefault(component.name, []).append(entry)
        return dict(sorted(found.items()))

    def find(self, kind: str, name: str) -> Registered:
        """Return the component of that name.

        Raises:
            UnknownNameError: nothing has that name; the error lists what is installed.
            PluginError: two plugins offer it.
        """
        known = self.components(kind)
        offers = known.get(name, [])
        if len(offers) > 1:
            first, second = offers[0].plugin, offers[1].plugin
            raise PluginError(
                f"{kind} '{name}' is offered by both '{first}' and '{second}'",
                f"block one of them with {BLOCK_VARIABLE}={second}",
            )
        if not offers:
            hint = f"installed: {', '.join(known) or 'none'}"
            if self.plugins.failures:
                hint += f"; plugins that failed to load: {', '.join(self.plugins.failures)} (see `anytalk plugins`)"
            raise UnknownNameError(f"unknown {kind} '{name}'{did_you_mean(name, list(known))}", hint)
        return offers[0]

    def load(self, kind: str, name: str) -> Any:
        """Import the target of a component (PluginError: the module or the attribute can't be imported)."""
        registered = self.find(kind, name)
        module_name, _, attribute = registered.component.target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # foreign code may raise anything, and packages may be missing
            raise PluginError(
                f"{kind} '{name}' of plugin '{registered.plugin}' can't be imported: {one_line(error)}",
                f"is everything that {registered.distribution} needs installed? (`anytalk doctor`)",
            ) from error

    def licence(self, kind: str, name: str) -> str:
        """Return the SPDX name of a part's licence; the part is imported only if its component doesn't name it.

        Raises:
            UnknownNameError: nothing has that name.
            PluginError: two plugins offer it, or it can't be imported.
        """
        return self.find(kind, name).component.licence or str(self.load(kind, name).licence)

    def options(self, kind: str, ref: PartRef) -> Options:
        """Validate the part's own options; ConfigError lists every wrong field at once."""
        model: type[Options] = self.load(kind, ref.name).Options
        known = ", ".join(model.model_fields) or "none"
        hint = f"options of '{ref.name}': {known} (`anytalk plugins {ref.name}` describes them)"
        return validated(model, ref.options, f"options of {kind} '{ref.name}' are not well-formed", hint, ref.name)

    def build(self, kind: str, ref: PartRef, context: BuildContext | None = None) -> Any:
        """Validate the options and build the part.

        Raises:
            ConfigError: some options are wrong.
            PluginError: the part can't be imported, or tried to end the program.
        """
        options = self.options(kind, ref)
        try:
            return self.load(kind, ref.name).build(options, context or BuildContext())
        except SystemExit as error:  # foreign code must not end the program
            raise PluginError(
                f"{kind} '{ref.name}' of plugin '{self.find(kind, ref.name).plugin}' tried to exit the program:"
                f" {one_line(error)}",
                "tell its authors, or choose another part",
            ) from None


def _checked(component: object) -> Component:
    if not isinstance(component, Component):
        raise TypeError(f"expected a list of anytalk.Component, got {type(component).__name__}")
    if not all(
        isinstance(text, str)
        for text in (component.name, component.target, component.summary, component.licence, *component.uses)
    ):
        raise TypeError(f"name, target, summary, licence and uses of a component must be strings, got {component}")
    if not isinstance(component.rank, int):
        raise TypeError(f"rank of '{component.name}' must be a number, got {component.rank!r}")
    # Found here, it is one line in `anytalk plugins`; found when the part is built, a traceback.
    if component.target.count(":") != 1:
        raise ValueError(f"target of '{component.name}' must be 'module:Name', got '{component.target}'")
    return component


@lru_cache(maxsize=1)
def default_registry() -> Registry:
    """Return the registry of the installed plugins, made once (``default_registry.cache_clear()`` drops it)."""
    return Registry(build_plugins())
