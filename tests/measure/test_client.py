"""Requests to servers that break the rules of the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pennyweight.errors import EndpointError
from pennyweight.measure.client import Client, Sampling, connect
from pennyweight.measure.record import Record
from pennyweight.workload import Request

ASKED = Request(id="a", session="a", prompt="one two", max_tokens=1)


class Hanging:
    """A server that says that it keeps connections, and answers so many requests of each before it hangs up on one."""

    def __init__(self, answers: int) -> None:
        self.answers, self.asked = answers, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(self.answers + 1):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:  # the client left first
                break
            fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields[b"content-length"]))
            self.asked += 1
            if number < self.answers:
                event = json.dumps({"choices": [{"text": "three", "finish_reason": "length"}]})
                body = event if fields[b"content-length"] == b"2" else f"data: {event}\n\ndata: [DONE]\n\n"
                writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
                await writer.drain()
        writer.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server, connect(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "model") as client:
            yield client


def test_a_kept_connection_that_is_closed_is_opened_anew() -> None:
    server = Hanging(answers=1)

    async def ask() -> list[Record]:
        async with server.client() as client:
            made = [await client.stream(ASKED, Sampling(), Record("a", 0.0)) for _ in range(3)]
            assert (await client.post("/v1/completions", {}))["choices"][0]["text"] == "three"
            return made

    assert [(record.error, record.text) for record in asyncio.run(ask())] == [(None, "three")] * 3
    assert server.asked == 4 + 3  # three of them on connections that had their answer


def test_a_new_connection_that_is_closed_is_a_failed_request() -> None:
    server = Hanging(answers=0)

    async def ask() -> Record:
        async with server.client() as client:
            with pytest.raises(EndpointError, match="is it running"):
                await client.post("/v1/completions", {})
            return await client.stream(ASKED, Sampling(), Record("a", 0.0))

    assert "ServerDisconnected" in (asyncio.run(ask()).error or "")
    assert server.asked == 2
