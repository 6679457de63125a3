"""One `llama-server` process on a socket file, and the streams of its native /completion."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from pennyweight.engines.llamacpp.settings import LlamaCpp
from pennyweight.errors import EngineError, EngineRefused
from pennyweight.processes import describe_exit, end_with_parent

START_SECONDS = 600.0
END_SECONDS = 2.0
LONGEST_LINE = 2**26  # bytes: a whole vocabulary with its log-probabilities is one line
MIN_LENGTH = 256  # tokens
Chunk = dict[str, Any]


class Server:
    """Create it in the event loop that will use it, and await `ready` before any other call."""

    def __init__(self, settings: LlamaCpp, file: Path, config: Mapping[str, Any], socket: Path) -> None:
        program = settings.program()
        assert program is not None
        command = [program, *settings.arguments(file, config), "--host", str(socket)]
        self.process = subprocess.Popen(  # own process group: a signal to ours does not cut its answers off
            command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=end_with_parent
        )
        connector = aiohttp.UnixConnector(str(socket), limit=0, force_close=True)  # the server closes them unannounced
        self._session = aiohttp.ClientSession(
            "http://llama", connector=connector, timeout=aiohttp.ClientTimeout(total=None), read_bufsize=LONGEST_LINE
        )

    async def ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if (code := self.process.poll()) is not None:
                raise EngineError(f"llama-server ended{describe_exit(code)} while it loaded")
            try:
                async with self._session.get("/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
        raise EngineError(f"llama-server did not get ready within {START_SECONDS:.0f} s")

    async def stream(self, body: Chunk) -> AsyncIterator[Chunk]:
        body = {**body, "stream": True, "return_tokens": True}
        try:
            async with self._session.post("/completion", json=body) as answer:
                if answer.status != 200:
                    kind = EngineRefused if answer.status == 400 else EngineError
                    raise kind(fault(await answer.text()))
                async for line in answer.content:
                    if (chunk := chunk_of(line)) is not None:
                        yield chunk
        except aiohttp.ClientError as error:
            raise EngineError(f"llama-server broke off ({error}).") from error

    async def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        await self._session.close()  # last: with a server that no longer reads, this would hang


def chunk_of(line: bytes) -> Chunk | None:
    """What one line of a stream says."""
    if line.startswith(b"error: "):
        raise EngineError(fault(line[7:].decode()))
    if not line.startswith(b"data: "):
        return None
    chunk: Chunk = json.loads(line[6:])
    if "error" in chunk:
        raise EngineError(fault(json.dumps(chunk)))
    return chunk


def kernels_from_log(settings: LlamaCpp, file: Path, config: Mapping[str, Any], socket: Path) -> list[str]:
    """What a verbose server logs while it loads: the weights' buffer types, and the CPU instructions it was built for.
    Weights in a repacked buffer use special kernels; the others are multiplied as they are stored."""
    small = replace(settings, max_num_seqs=1, max_model_len=MIN_LENGTH, speculative_method="", draft_model="")
    command = [str(settings.program()), *small.arguments(file, config), "--host", str(socket), "--log-verbosity", "4"]
    facts: list[str] = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            weights = re.search(r"(\S+) model buffer size = *([\d.]+) MiB", line)
            if weights and float(weights[2]):
                facts.append(f"{weights[2]} MiB of weights in {weights[1]}")
            if built := re.search(r"CPU : (.*)\|", line):
                on = [name for name, value in re.findall(r"(\w+) = (\d)", built[1]) if value == "1"]
                facts.append("instructions: " + " ".join(on))
            if "model loaded" in line:
                break
        process.kill()  # a server that has only just loaded ignores SIGTERM
    return facts


def fault(text: str) -> str:
    try:
        return f"llama-server: {json.loads(text)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"llama-server: {text[:300]}"
