"""JSON bodies: read beside the event loop where they are large, and with a bound on what they unpack to."""

from __future__ import annotations

import json
from typing import TypeVar

from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from anytalk.serve.errors import RequestError, check_values, of_validation

_SMALL_BYTES = 1 << 16
Body = TypeVar("Body", bound=BaseModel)


async def read_json(request: Request, kind: type[Body]) -> Body:
    """Return a request's body as a model (RequestError: no JSON, too many values in it, or fields that don't fit)."""
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
