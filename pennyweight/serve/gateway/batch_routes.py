"""The HTTP routes for files and batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from pennyweight.serve.gateway import reading
from pennyweight.serve.gateway.batches import Batches, lasting
from pennyweight.serve.gateway.refusals import Refused
from pennyweight.serve.gateway.tenant import Tenant

MAX_UPLOAD = 512 * 2**20
UPLOAD_SECONDS = 600.0
FORM = {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}
MAX_PAGE = 10_000


def routes(batches: Batches | None, tenant_of: Callable[[Request], Tenant], most: int) -> list[Route]:
    def mine(request: Request) -> tuple[Batches, str]:
        tenant = tenant_of(request).name
        if batches is None:
            raise Refused(400, "This gateway keeps no batches: start it with `pw serve --state DIRECTORY`.")
        return batches, tenant

    async def files(request: Request) -> Response:
        kept, tenant = mine(request)
        if request.method == "GET":
            purpose = request.query_params.get("purpose")
            rows = [file.as_json() for file in await kept.files(tenant) if purpose in (None, file.purpose)]
            return listed(rows, request)
        try:
            async with asyncio.timeout(UPLOAD_SECONDS), bounded(request).form(max_files=1, max_fields=10) as form:
                if unknown := sorted(set(form) - FORM):
                    raise Refused(400, f"{unknown[0][:60]} is no field of a file: remove it.", unknown[0][:60])
                file, wanted = form.get("file"), form.get("purpose")
                if not isinstance(file, UploadFile) or not isinstance(wanted, str):
                    raise Refused(400, "A form with file and purpose is needed.", "file")
                seconds = str(form.get("expires_after[seconds]", ""))
                whole = int(seconds) if seconds.isdigit() else seconds or None
                lasts = lasting("expires_after", form.get("expires_after[anchor]"), whole)
                made = await kept.upload(tenant, file.filename or "file", wanted, file.file, lasts)
        except TimeoutError:
            raise Refused(408, f"The file did not come within {UPLOAD_SECONDS:.0f} s.", "file") from None
        except ClientDisconnect:
            raise Refused(499, "The client has left.") from None
        return JSONResponse(made.as_json())

    async def file(request: Request) -> Response:
        kept, tenant = mine(request)
        found = await kept.file(tenant, request.path_params["file"])
        if request.method == "GET":
            return JSONResponse(found.as_json())
        await kept.remove(tenant, found.id)
        return JSONResponse({"id": found.id, "object": "file", "deleted": True})

    async def content(request: Request) -> Response:
        kept, tenant = mine(request)
        return FileResponse(kept.path(await kept.file(tenant, request.path_params["file"])))

    async def many(request: Request) -> Response:
        kept, tenant = mine(request)
        if request.method == "GET":
            return listed(await kept.batches(tenant), request)
        return JSONResponse(await kept.create(tenant, reading.parsed(await reading.read(request, most))))

    async def one(request: Request) -> Response:
        kept, tenant = mine(request)
        return JSONResponse(await kept.batch(tenant, request.path_params["batch"]))

    async def cancel(request: Request) -> Response:
        kept, tenant = mine(request)
        return JSONResponse(await kept.cancel(tenant, request.path_params["batch"]))

    return [
        Route("/v1/files", files, methods=["GET", "POST"]),
        Route("/v1/files/{file}", file, methods=["GET", "DELETE"]),
        Route("/v1/files/{file}/content", content),
        Route("/v1/batches", many, methods=["GET", "POST"]),
        Route("/v1/batches/{batch}", one),
        Route("/v1/batches/{batch}/cancel", cancel, methods=["POST"]),
    ]


def bounded(request: Request) -> Request:
    """The request with a limit on the bytes that are read of its body."""
    read = 0

    async def receive() -> Message:
        nonlocal read
        message = await request.receive()
        read += len(message.get("body", b""))
        if read > MAX_UPLOAD:
            raise Refused(413, f"The file is larger than {MAX_UPLOAD:,} bytes: send less.", "file")
        return message

    return Request(request.scope, receive)


def listed(rows: list[dict[str, Any]], request: Request) -> Response:
    """A page of them: at most `limit`, after the one with the id `after`; `order` asc or desc."""
    asked = request.query_params
    limit, order, after = asked.get("limit", ""), asked.get("order", "desc"), asked.get("after")
    if limit and not (limit.isdigit() and 1 <= int(limit) <= MAX_PAGE):
        raise Refused(400, f"limit must be 1 to {MAX_PAGE}.", "limit")
    if order not in ("asc", "desc"):
        raise Refused(400, "order must be asc or desc.", "order")
    rows = rows if order == "desc" else rows[::-1]
    if after is not None:
        place = next((n for n, row in enumerate(rows) if row["id"] == after), None)
        if place is None:
            raise Refused(400, f"after names {after[:60]!r}, which is none of yours.", "after")
        rows = rows[place + 1 :]
    page = rows[: int(limit)] if limit else rows[:MAX_PAGE]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": page, "has_more": len(page) < len(rows), **ends})
