"""Forwards as CUDA graphs: launching hundreds of kernels one after the other takes the CPU longer than the GPU needs
for their work (benchmarks/gpu.py; docs/log/engines.md).

A graph runs over fixed memory and shapes. So numbers of rows, tokens and positions are rounded up to powers of two,
with a graph for each combination. A row that stands for nobody writes to a row of its own that nothing reads; a piece
is filled up with its last token at its own place, which writes what is there already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pennyweight.engines.batching.draft import Lengths

LEAST_POSITIONS, LEAST_TOKENS = 256, 16
MOST_TOKENS = 512  # of a prompt's piece: above, the GPU's work takes longer than the launches
WARM_UPS = 2  # libraries allocate and choose kernels in their first calls, which a graph cannot hold


@dataclass(frozen=True)
class Inputs:
    """Of a forward of tokens (rows, width) at places (rows, width) that sees `end` positions: their logits, or those
    after the token of index `last` (1,) alone. `gathered`: the rows are not the first ones of the store."""

    tokens: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor
    end: int
    last: torch.Tensor | None = None
    gathered: bool = False


Forward = Callable[[Inputs], torch.Tensor]


class Graph:
    """A forward with its inputs in memory that stays, and what runs it."""

    def __init__(self, forward: Forward, inputs: Inputs) -> None:
        self.inputs = inputs
        self._work = partial(forward, inputs)
        self._logits: torch.Tensor | None = None
        self._graph: Any = None

    def capture(self, pool: Any) -> Any:
        """Record the forward; the memory pool, to be shared with the next graph."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._work()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._logits = self._work()
        return self._graph.pool()

    def run(self) -> torch.Tensor:
        """The logits, valid until the next run of any graph."""
        if self._graph is None:
            return self._work()
        self._graph.replay()
        assert self._logits is not None
        return self._logits


class Graphs:
    """The graphs of a model by shape. They hold addresses in its key-value store: where that has moved, they are
    recorded again. A model whose forward cannot be recorded (experts chosen on the CPU, say) runs without."""

    def __init__(self, forward: Forward, *, most_rows: int, nobody: int, device: torch.device) -> None:
        """`nobody` is the row of the store that nothing reads."""
        self._forward, self._most, self._nobody, self._device = forward, most_rows, nobody, device
        self._made: dict[tuple[int, ...], Graph] = {}
        self._capacity = 0
        self._pool: Any = None
        self._records = device.type == "cuda"

    def decode(self, tokens: Sequence[int], lengths: Lengths, capacity: int) -> torch.Tensor:
        """Logits (rows, vocabulary) of a token for each of the first rows, which hold `lengths` positions. `capacity`
        is the store's, in positions."""
        count = min(self._most, rounded_up(len(tokens), 1))
        graph = self._graph(count, 1, rounded_up(int(lengths.max()) + 1, LEAST_POSITIONS), capacity)
        unused = count - len(tokens)
        graph.inputs.tokens.copy_(torch.tensor([*tokens, *[0] * unused])[:, None])
        graph.inputs.rows.copy_(torch.tensor([*range(len(tokens)), *[self._nobody] * unused]))
        graph.inputs.places.copy_(torch.tensor([*lengths.tolist(), *[0] * unused])[:, None])
        return graph.run()[: len(tokens), 0]

    def extend(self, row: int, tokens: Sequence[int], start: int, capacity: int) -> torch.Tensor:
        """Logits (1, vocabulary) after the last of tokens that a row takes from position `start` on."""
        width = rounded_up(len(tokens), LEAST_TOKENS)
        graph = self._graph(1, width, rounded_up(start + width, LEAST_POSITIONS), capacity)
        steps = torch.arange(width).clamp(max=len(tokens) - 1)
        graph.inputs.tokens.copy_(torch.tensor(list(tokens))[steps][None])
        graph.inputs.rows.fill_(row)
        graph.inputs.places.copy_((start + steps)[None])
        assert graph.inputs.last is not None
        graph.inputs.last.fill_(len(tokens) - 1)
        return graph.run()[0]

    def positions(self, start: int, tokens: int) -> int:
        """What the store must hold for tokens from `start` on."""
        width = 1 if tokens == 1 else rounded_up(tokens, LEAST_TOKENS)
        return rounded_up(start + width, LEAST_POSITIONS)

    def _graph(self, count: int, width: int, end: int, capacity: int) -> Graph:
        if capacity != self._capacity:
            self._made.clear()
            self._capacity = capacity
        if (count, width, end) not in self._made:
            self._made[count, width, end] = graph = Graph(self._forward, self._inputs(count, width, end))
            self._record(graph)
        return self._made[count, width, end]

    def _inputs(self, count: int, width: int, end: int) -> Inputs:
        def numbers(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.long, device=self._device)

        rows = numbers(count).fill_(self._nobody)
        last = None if width == 1 else numbers(1)
        return Inputs(numbers(count, width), rows, numbers(count, width), end, last, gathered=width > 1)

    def _record(self, graph: Graph) -> None:
        if not self._records:
            return
        try:
            self._pool = graph.capture(self._pool)
        except RuntimeError:
            torch.cuda.synchronize()
            self._records = False
            graph._graph = None


def rounded_up(number: int, least: int) -> int:
    """The next power of two times `least`."""
    return least << max(0, -(-number // least) - 1).bit_length()
