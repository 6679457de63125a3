"""Why a request gets no answer, each with its HTTP status, and its spelling as OpenAI's API has it."""

from __future__ import annotations

import json
import math

from starlette.responses import Response

from pennyweight.errors import EngineError, PennyweightError
from pennyweight.openai_api.errors import error_body

MIN_RETRY_SECONDS = 1


class Refused(PennyweightError):
    """The request is at fault: an error of this status."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class Shed(PennyweightError):
    """The request is refused for now: 429, with a Retry-After in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = max(MIN_RETRY_SECONDS, math.ceil(retry_after))


class Unavailable(EngineError):
    """No engine answered, and nothing was sent to the client yet: 503."""


def refusal(error: Exception) -> Response:
    """Any error in OpenAI's shape."""
    headers = {}
    status, kind, param, code = 500, "server_error", None, None
    if isinstance(error, Shed):
        status, kind, code = 429, "rate_limit_error", "rate_limit_exceeded"
        headers["retry-after"] = str(error.retry_after)
    elif isinstance(error, Refused):
        status, param, code = error.status, error.param, error.code
        kind = "authentication_error" if status == 401 else "invalid_request_error"
    elif isinstance(error, Unavailable):
        status = 503
        headers["retry-after"] = "5"
    body = json.dumps(error_body(str(error), kind, param, code)).encode()
    return Response(body, status, headers, "application/json")
