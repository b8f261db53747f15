"""Read JSON bodies with a limit on their values, in a thread if they are large."""

from __future__ import annotations

import json
from typing import TypeVar

from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from anytalk.serve.errors import RequestError, check_values, of_validation

_SMALL_BYTES = 1 << 16  # smaller bodies don't delay other clients
Body = TypeVar("Body", bound=BaseModel)


async def read_json(request: Request, kind: type[Body]) -> Body:
    """Parse a request's body; RequestError if it isn't JSON, holds too many values, or has fields that don't fit."""
    data = await request.body()
    if len(data) < _SMALL_BYTES:
        return _parsed(data, kind)
    return await run_in_threadpool(_parsed, data, kind)


def _parsed(data: bytes, kind: type[Body]) -> Body:
    check_values(data)
    try:
        return kind.model_validate(json.loads(data))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise RequestError("the body is not JSON", "invalid_json") from None
    except ValidationError as error:
        raise of_validation(error.errors(), "body") from None
