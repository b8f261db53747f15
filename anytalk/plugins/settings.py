"""Reads settings from YAML and validates them, with everything that is wrong in one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from anytalk.errors import AnytalkError, ConfigError

T = TypeVar("T", bound=pydantic.BaseModel)


def read_yaml(path: Path, error_kind: type[AnytalkError], hint: str = "fix the file") -> Any:
    """Read a YAML file; `error_kind` is raised if it can't be read or isn't YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:  # a date of the 13th month is a ValueError
        raise error_kind(f"'{path}' can't be read as YAML: {' '.join(str(error).split())}", hint) from None


def validated(model: type[T], data: Any, what: str, hint: str, prefix: str = "") -> T:
    """Validate settings; ConfigError lists everything that is wrong, one line each with dotted field names.

    Args:
        what: The first line of the error: ``"'data.yaml' is not well-formed"``.
        prefix: What to put before every field's name.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        lines = [f"{what}:"]
        # One line for each problem, so that all can be fixed in one go.
        for problem in error.errors():
            where = ".".join(str(part) for part in ((prefix,) if prefix else ()) + tuple(problem["loc"]))
            lines.append(f"  {where}: {problem['msg']}")
        raise ConfigError("\n".join(lines), hint) from None
