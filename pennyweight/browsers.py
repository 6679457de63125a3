"""Web pages may not spend a server's time behind their reader's back. A page of another site can send simple requests
(text/plain) to a local port without asking, and reach one under a name of its own (DNS rebinding). So bodies must be
JSON or a form of files, which browsers ask leave for, and where no key is needed, `Origin` and `Host` are checked."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pennyweight.openai_api.errors import error_body

JSON, FORM = "application/json", "multipart/form-data"
UPLOADS = "/v1/files"  # takes a form, and nothing else does
LOCAL_NAMES = ("localhost", "localhost.localdomain")


def guarded(application: ASGIApp, *, host: str, open_to_all: bool, origins: Sequence[str] = ()) -> ASGIApp:
    """The application behind these checks. `open_to_all`: it asks for no key; `origins`: pages that may use it."""
    if origins:
        application = CORSMiddleware(application, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    return Browsers(application, host=host, open_to_all=open_to_all, origins=origins)


class Browsers:
    """Answers itself what a web page must not ask, and passes on the rest."""

    def __init__(self, inner: ASGIApp, *, host: str, open_to_all: bool, origins: Sequence[str]) -> None:
        self._inner, self._origins = inner, origins
        self._open, self._local = open_to_all, open_to_all and is_local(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._fault(scope) if scope["type"] == "http" else None
        if fault is None:
            await self._inner(scope, receive, send)
        else:
            status, message = fault
            answer = JSONResponse(error_body(message, "invalid_request_error"), status_code=status)
            await answer(scope, receive, send)

    def _fault(self, scope: Scope) -> tuple[int, str] | None:
        """Status and message of the refusal."""
        headers = Headers(scope=scope)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        wanted = FORM if scope["path"] == UPLOADS else JSON
        if scope["method"] == "POST" and kind != wanted and _has_body(headers):
            return (415, f"Content-Type {kind or 'is missing'}: send {wanted}.")
        if not self._open:
            return None
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if self._local and not is_local(_name_in(f"//{host}")):
            return (403, f"This server is bound to this machine, and {host[:100]!r} is no name of it.")
        if origin and origin not in self._origins and urlsplit(origin).netloc != host:
            return (403, f"Pages of {origin[:100]} may not use this server: start it with --allowed-origin.")
        return None


def is_local(host: str) -> bool:
    if host.lower().rstrip(".") in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _name_in(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
