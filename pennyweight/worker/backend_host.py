"""The worker's side of an engine that runs as a `Backend` server: called directly, without a driver process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pennyweight.engines.base import Backend
from pennyweight.errors import EngineError, EngineRefused, PennyweightError
from pennyweight.generation import Generation, Pooling, Score
from pennyweight.worker import driver
from pennyweight.worker.host import Host


class BackendHost(Host):
    def __init__(self, backend: Backend, engine: str, directory: str, on_death: Callable[[], None]) -> None:
        super().__init__(on_death)
        self._backend, self._engine, self._directory = backend, engine, directory

    async def start(self) -> None:
        try:
            await self._backend.start(self._deliver, self._die)
        except PennyweightError:
            raise
        except Exception as error:  # as in a driver: one sentence to the user
            raise EngineError(driver.cannot_load(self._engine, self._directory, error)) from error

    async def score(self, tokens: Sequence[int], start: int) -> Score:
        self._refuse_dead()
        return await self._backend.score(tokens, start)

    async def embed(self, tokens: Sequence[int], pooling: Pooling) -> list[float]:
        del tokens, pooling
        raise EngineRefused(f"{self._engine} gives no embeddings here: use openvino, onnxruntime or transformers.")

    async def kernels(self) -> list[str]:
        self._refuse_dead()
        return await self._backend.kernels()

    async def close(self) -> None:
        await self._backend.close()

    def _begin(self, generation: Generation) -> None:
        self._backend.submit(generation)

    def _end(self, generation_id: str) -> None:
        self._backend.cancel(generation_id)
