"""Checks for packages that only one of anytalk's extras installs. Imports no torch."""

from __future__ import annotations

from importlib.util import find_spec

from anytalk.errors import ConfigError


def require(what: str, extra: str, *packages: str) -> None:
    """Check that packages can be imported, before work begins that would fail without them.

    Args:
        what: What needs them; it begins the error's sentence ("training").
        extra: The extra of anytalk that installs them.
        packages: The names under which they are imported.

    Raises:
        ConfigError: some aren't installed; the error names them and says what to type.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        told = f"the package {missing[0]}" if len(missing) == 1 else f"the packages {', '.join(missing)}"
        state = "which is not installed" if len(missing) == 1 else "which are not installed"
        raise ConfigError(f"{what} needs {told}, {state}", f"pip install 'anytalk[{extra}]'")
