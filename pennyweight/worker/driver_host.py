"""An engine that is a library, in a driver process: the worker's end of the pipe (driver.py has the messages)."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from pennyweight.errors import EngineError
from pennyweight.generation import Generation, Pooling, Score
from pennyweight.processes import describe_exit
from pennyweight.worker import driver
from pennyweight.worker.host import Host

CLOSE_SECONDS = 1.0


class DriverHost(Host):
    def __init__(self, engine: str, settings: Mapping[str, Any], directory: str, on_death: Callable[[], None]) -> None:
        super().__init__(on_death)
        context = multiprocessing.get_context("spawn")
        self._connection, self._theirs = context.Pipe()
        arguments = (self._theirs, engine, dict(settings), directory)
        self._process = context.Process(target=driver.run, args=arguments, name=f"{engine}-driver", daemon=True)
        self._engine = engine
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._keys = count()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._process.start()
        self._theirs.close()
        try:
            first = await asyncio.to_thread(self._connection.recv)
        except EOFError:
            self._process.join(CLOSE_SECONDS)
            raise EngineError(f"{self._engine} ended while it loaded{describe_exit(self._process.exitcode)}.") from None
        except BaseException:  # cancelled: the thread in recv() ends only when the process does
            self._process.kill()
            raise
        if first[0] == "failed":
            raise EngineError(first[1])
        threading.Thread(target=self._listen, name="driver-messages", daemon=True).start()

    async def score(self, tokens: Sequence[int], start: int) -> Score:
        found: Score = await self._ask("score", list(tokens), start)
        return found

    async def embed(self, tokens: Sequence[int], pooling: Pooling) -> list[float]:
        found: list[float] = await self._ask("embed", list(tokens), pooling)
        return found

    async def kernels(self) -> list[str]:
        found: list[str] = await self._ask("kernels")
        return found

    async def close(self) -> None:
        if self._process.is_alive():
            with contextlib.suppress(OSError):  # it may end between the two lines
                self._connection.send(("close",))
            self._process.join(CLOSE_SECONDS)
            self._process.kill()  # a step can take too long to wait for

    def _begin(self, generation: Generation) -> None:
        self._connection.send(("submit", generation))

    def _end(self, generation_id: str) -> None:
        self._connection.send(("cancel", generation_id))

    async def _ask(self, what: str, *more: Any) -> Any:
        self._refuse_dead()
        key = next(self._keys)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._asked[key] = answer
        self._connection.send((what, key, *more))
        try:
            return await answer
        except asyncio.CancelledError:
            self._asked.pop(key, None)
            if not self.failure:
                self._connection.send(("forget", key))
            raise

    # -- messages from the driver --

    def _listen(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                self._loop.call_soon_threadsafe(self._take, message)
        except (EOFError, OSError):
            self._process.join(CLOSE_SECONDS)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._gone)

    def _take(self, message: tuple[Any, ...]) -> None:
        if message[0] == "events":
            for event in message[1]:
                self._deliver(event)
            return
        _, key, value, fault = message
        answer = self._asked.pop(key, None)
        if answer is not None and not answer.done():  # else the client has left
            if fault is None:
                answer.set_result(value)
            else:
                answer.set_exception(EngineError(f"The engine could not answer: {fault}"))

    def _gone(self) -> None:
        self._die(f"The engine's process ended{describe_exit(self._process.exitcode)}.")
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(EngineError(self.failure))
