"""Reads questions by the sentence embedding, beside the event loop: those that come while one batch is read are the
next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pennyweight.embedding import Reading

MOST, MOST_WAITING = 16, 256  # questions of a batch; questions that wait
Then = TypeVar("Then")
Read = Callable[[Sequence[str]], list[Reading]]


class QuestionReader:
    def __init__(self, read: Read) -> None:
        self._read = read
        self._threads = ThreadPoolExecutor(1, "embedding")
        self._waiting: list[tuple[str, asyncio.Future[Reading]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, text: str, then: Callable[[Reading], Then]) -> tuple[Reading, Then]:
        """The reading, and what is made of it in the same thread. Raises what the embedding raises."""
        if len(self._waiting) >= MOST_WAITING:
            raise OverflowError("too many questions wait for the embedding")
        wanted: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, wanted))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        reading = await wanted
        return reading, await asyncio.get_running_loop().run_in_executor(self._threads, then, reading)

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            try:
                texts = [text for text, _ in batch]
                found = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, texts)
            except Exception as error:  # onnxruntime has many; each waiting request goes on without a similar answer
                for _, wanted in batch:
                    if not wanted.done():
                        wanted.set_exception(error)
                continue
            for (_, wanted), reading in zip(batch, found, strict=True):
                if not wanted.done():
                    wanted.set_result(reading)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
