"""Builds a part for the other checks, and checks that its options are documented, closed and immutable."""

from __future__ import annotations

from typing import Any

from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.registry import Registry, default_registry


def check_options(kind: str, name: str, registry: Registry | None = None) -> None:
    """Check that every field of the part's ``Options`` is described, unknown fields are refused, values are frozen."""
    part = (registry or default_registry()).load(kind, name)
    options = part.Options
    for field, info in options.model_fields.items():
        assert info.description, f"{kind} '{name}': option '{field}' has no description"
    assert options.model_config.get("extra") == "forbid", f"{kind} '{name}': Options must derive from anytalk.Options"
    assert options.model_config.get("frozen"), f"{kind} '{name}': Options must be frozen"


def built(
    kind: str,
    name_or_part: Any,
    registry: Registry | None = None,
    options: dict[str, Any] | None = None,
    context: BuildContext | None = None,
) -> tuple[Any, str]:
    """Return a part, built if it is given by name (then its options are checked too), and what messages call it."""
    if not isinstance(name_or_part, str):
        return name_or_part, f"{kind} {type(name_or_part).__name__}"
    registry = registry or default_registry()
    check_options(kind, name_or_part, registry)
    part = registry.build(kind, PartRef(name=name_or_part, options=options or {}), context or BuildContext())
    return part, f"{kind} '{name_or_part}'"
