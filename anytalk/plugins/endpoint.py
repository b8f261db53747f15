"""What all who ask an OpenAI-compatible endpoint share: the client's package, the key, the address. No torch."""

from __future__ import annotations

import os
from typing import Any

from anytalk.errors import ConfigError
from anytalk.plugins.optional import require

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"


def load_openai(what: str, extra: str) -> Any:
    """Return the package ``openai``, which is optional; the message says what needs it, and which extra installs it.

    Raises:
        ConfigError: it isn't installed.
    """
    require(what, extra, "openai")
    import openai

    return openai


def is_address(text: str) -> bool:
    """Return whether a model's name is the address of an endpoint."""
    return text.startswith(("http://", "https://"))


def read_key(variable: str | None, hint: str) -> str | None:
    """Return the API key of an environment variable, by default OPENAI_API_KEY; one that was asked for has to be there.

    Raises:
        ConfigError: it isn't.
    """
    key = os.environ.get(variable or DEFAULT_KEY_VARIABLE)
    if variable is not None and not key:
        raise ConfigError(f"the environment variable {variable} is not set", f"export {variable}=..., or {hint}")
    return key


def in_a_line(error: BaseException) -> str:
    """Return what an error says, without line breaks and not too long."""
    return " ".join(str(error).split())[:300]
