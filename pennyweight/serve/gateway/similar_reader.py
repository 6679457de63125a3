"""Reads questions by the sentence embedding, beside the event loop: those that come while one batch is read are the
next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pennyweight.embedding import Reading

MOST, MOST_WAITING = 16, 256  # questions of a batch; questions that wait
Then = TypeVar("Then")
Read = Callable[[Sequence[str]], list[Reading]]
Waiting = tuple[str, Callable[[Reading], Any], asyncio.Future[tuple[Reading, Any]]]


class QuestionReader:
    def __init__(self, read: Read) -> None:
        self._read = read
        self._threads = ThreadPoolExecutor(1, "embedding")
        self._waiting: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, text: str, then: Callable[[Reading], Then]) -> tuple[Reading, Then]:
        """The reading, and what is made of it in the same thread. Raises what the embedding raises."""
        if len(self._waiting) >= MOST_WAITING:
            raise OverflowError("too many questions wait for the embedding")
        wanted: asyncio.Future[tuple[Reading, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, then, wanted))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await wanted

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            loop = asyncio.get_running_loop()
            work = [(text, then) for text, then, _ in batch]
            results = await loop.run_in_executor(self._threads, self._made, work)
            for (_, _, wanted), result in zip(batch, results, strict=True):
                if wanted.done():
                    continue
                if isinstance(result, Exception):
                    wanted.set_exception(result)
                else:
                    wanted.set_result(result)

    def _made(self, work: Sequence[tuple[str, Callable[[Reading], Any]]]) -> list[tuple[Reading, Any] | Exception]:
        """In the thread. A fault of one question is no other's."""
        try:
            readings = self._read([text for text, _ in work])
        except Exception as error:  # onnxruntime has many; each waiting request goes on without a similar answer
            return [error] * len(work)
        made: list[tuple[Reading, Any] | Exception] = []
        for (_, then), reading in zip(work, readings, strict=True):
            try:
                made.append((reading, then(reading)))
            except Exception as error:
                made.append(error)
        return made

    def close(self) -> None:
        """Waits for what runs: it reads from the store, which is closed next."""
        self._threads.shutdown(wait=True, cancel_futures=True)
