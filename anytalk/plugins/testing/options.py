"""Checks that hold for every part: its options are documented, closed and immutable."""

from anytalk.plugins.registry import Registry, default_registry


def check_options(kind: str, name: str, registry: Registry | None = None) -> None:
    """Every field of the part's ``Options`` is described, unknown fields are refused, values are frozen."""
    part = (registry or default_registry()).load(kind, name)
    options = part.Options
    for field, info in options.model_fields.items():
        assert info.description, f"{kind} '{name}': option '{field}' has no description"
    assert options.model_config.get("extra") == "forbid", f"{kind} '{name}': Options must derive from anytalk.Options"
    assert options.model_config.get("frozen"), f"{kind} '{name}': Options must be frozen"
