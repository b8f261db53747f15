"""List installed parts, or the options of one: ``anytalk plugins``."""

from __future__ import annotations

from typing import Any

import typer

from anytalk.cli.render import complain, note, out, say, table
from anytalk.errors import UnknownNameError, did_you_mean
from anytalk.plugins.registry import KINDS, Registry, default_registry


def command(name: str | None = typer.Argument(None, help="A part, to list its options.")) -> None:
    """List installed parts, or the options of one."""
    registry = default_registry()
    if name is None:
        _list_all(registry)
    else:
        _describe(registry, name)


def _list_all(registry: Registry) -> None:
    rows = []
    for kind in KINDS:
        for name, offers in registry.components(kind).items():
            for offer in offers:
                summary = offer.component.summary
                if len(offers) > 1:
                    summary = f"CLASH, {len(offers)} plugins offer it. {summary}"
                rows.append((kind, name, summary, f"{offer.plugin} ({offer.distribution} {offer.version})"))
    # Print each kind only once.
    shown = [("" if i and rows[i - 1][0] == row[0] else row[0], *row[1:]) for i, row in enumerate(rows)]
    out.print(table("Installed parts", ("kind", "name", "what it is", "plugin"), shown))
    for plugin, reason in registry.plugins.failures.items():
        complain(f"plugin '{plugin}' failed: {reason}")
    if registry.plugins.blocked:
        note(f"blocked: {', '.join(registry.plugins.blocked)}")
    note("`anytalk plugins NAME` lists a part's options; `pip install` adds plugins")


def _describe(registry: Registry, name: str) -> None:
    kinds = [kind for kind in KINDS if name in registry.components(kind)]
    if not kinds:
        known = sorted({n for kind in KINDS for n in registry.components(kind)})
        raise UnknownNameError(f"no part is called '{name}'{did_you_mean(name, known)}", "`anytalk plugins` lists them")
    for i, kind in enumerate(kinds):
        if i:
            out.print()
        summary = registry.find(kind, name).component.summary
        target = registry.load(kind, name)
        say(f"[bold]{kind} '{name}'[/]: {summary}")
        options = getattr(target, "Options", None)
        if options is None:
            _show_data(target)
            continue
        say(f"licence: {getattr(target, 'licence', 'unknown')}")
        rows = [
            (field, _type_name(info.annotation), _default(info), info.description or "")
            for field, info in options.model_fields.items()
        ]
        if rows:
            out.print(table("", ("option", "type", "default", "description"), rows))
        else:
            say("no options")


def _show_data(target: Any) -> None:
    """Print a recipe or a voice, which are data and have no options."""
    if isinstance(target, dict):
        rows = [
            (s["name"], ", ".join(s["train"]), ", ".join(s["tasks"]), str(s["steps"])) for s in target.get("stages", [])
        ]
        out.print(table("", ("stage", "trains", "tasks", "steps"), rows, numbers=("steps",)))
        return
    say(f"folder: {target}")


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _default(info: Any) -> str:
    if info.is_required():
        return "(required)"
    default = info.get_default(call_default_factory=True)
    return "null" if default is None else str(default)
