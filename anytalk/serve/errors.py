"""Describe errors between client and server in the form of OpenAI's error objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anytalk.errors import AnytalkError
from anytalk.plugins.markup import whole_characters

MAX_VALUES = 100_000
"""How many values one body or message may hold."""


class RequestError(Exception):
    """Reports a request that can't be served; the connection stays open."""

    def __init__(self, message: str, code: str = "invalid_value", param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.code, self.param, self.status = message, code, param, status

    @property
    def kind(self) -> str:
        """Return the error's `type` in OpenAI's terms."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> dict[str, Any]:
        # A message may quote half of a surrogate pair, which JSON can spell and HTTP can't send.
        message = whole_characters(self.message)
        return {"type": self.kind, "code": self.code, "message": message, "param": self.param}


def check_characters(text: str, param: str | None = None) -> None:
    """Check that a text has no lone surrogates, which JSON can spell but tokenizers can't read.

    Raises:
        RequestError: it has one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        said = f"{half} is half of a surrogate pair, and no character; send both halves, or the character itself"
        raise RequestError(said, "invalid_value", param) from None


def check_values(data: bytes | str) -> None:
    """Count the values in JSON before parsing it: sound is one long string, an attack may be a million lists.

    Raises:
        RequestError: there are too many.
    """
    found = sum(data.count(mark.encode()) if isinstance(data, bytes) else data.count(mark) for mark in ",[{")
    if found > MAX_VALUES:
        raise RequestError(f"the JSON holds more than {MAX_VALUES} values", "request_too_large", status=413)


def of_ours(error: AnytalkError, code: str = "invalid_value") -> RequestError:
    """Convert an error of the library to one of a request."""
    return RequestError(f"{error.message}; {error.hint}" if error.hint else error.message, code)


def of_validation(errors: Iterable[Any], whole: str = "event") -> RequestError:
    """Convert pydantic's errors about a `whole` (an event or a body) to one error; `param` is the first field."""
    found = list(errors)
    if found[0]["type"] == "json_invalid":
        return RequestError(f"the {whole} is not JSON", "invalid_json")
    places = [".".join(str(part) for part in error["loc"]) for error in found]
    said = "; ".join(f"{place or whole}: {error['msg']}" for place, error in zip(places, found, strict=True))
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}.get(
        found[0]["type"], "invalid_value"
    )
    return RequestError(said, code, places[0] or None)
