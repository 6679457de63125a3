"""An engine whose model runs in a server of its own kind: asked from here, with no driver between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pennyweight.engines import Backend, Generation, Score
from pennyweight.engines.host import Host


class BackendHost(Host):
    def __init__(self, backend: Backend, on_death: Callable[[], None] = lambda: None) -> None:
        super().__init__(on_death)
        self._backend = backend

    async def start(self) -> None:
        await self._backend.start(self._deliver, self._die)

    async def score(self, tokens: Sequence[int], start: int) -> Score:
        self._refuse_dead()
        return await self._backend.score(tokens, start)

    async def kernels(self) -> list[str]:
        self._refuse_dead()
        return await self._backend.kernels()

    async def close(self) -> None:
        await self._backend.close()

    def _begin(self, generation: Generation) -> None:
        self._backend.submit(generation)

    def _end(self, generation_id: str) -> None:
        self._backend.cancel(generation_id)
