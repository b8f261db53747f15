"""Loads the client and the key for OpenAI-compatible endpoints, and recognises their addresses. Imports no torch."""

from __future__ import annotations

import os
from typing import Any

from anytalk.errors import ConfigError
from anytalk.plugins.optional import require

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"


def load_openai(what: str, extra: str) -> Any:
    """Import the optional package ``openai``.

    Raises:
        ConfigError: it isn't installed; the error says what needs it and which extra installs it.
    """
    require(what, extra, "openai")
    import openai

    return openai


def is_address(text: str) -> bool:
    """Return whether a model's name is an endpoint's address."""
    return text.startswith(("http://", "https://"))


def read_key(variable: str | None, hint: str) -> str | None:
    """Read the API key from an environment variable, by default OPENAI_API_KEY.

    Raises:
        ConfigError: `variable` was given but isn't set.
    """
    key = os.environ.get(variable or DEFAULT_KEY_VARIABLE)
    if variable is not None and not key:
        raise ConfigError(f"the environment variable {variable} is not set", f"export {variable}=..., or {hint}")
    return key


def in_a_line(error: BaseException) -> str:
    """Return an error's message on one line, of at most 300 characters."""
    return " ".join(str(error).split())[:300]
