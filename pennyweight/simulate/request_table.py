"""The requests of a simulation as arrays: when they come, how long they are, and which first blocks they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError, WorkloadError
from pennyweight.workload import Request, Workload

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RequestTable:
    """One row per request, by arrival. Request i's prompt begins with the blocks
    `block_hashes[block_starts[i]:block_starts[i + 1]]` of `hashed_block_size` tokens each; equal hashes mean equal
    blocks after equal beginnings, as a hash stands for all blocks before it too. Sessions are numbered.

    With `clients`, arrivals are not read: so many clients send one request after the other, each when its last one is
    answered.
    """

    arrival: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    session: Integers
    block_hashes: Integers
    block_starts: Integers
    hashed_block_size: int = 0
    clients: int = 0
    name: str = "requests"

    def __post_init__(self) -> None:
        count = len(self.arrival)
        if not count:
            raise WorkloadError(f"{self.name!r} has no requests to simulate: give at least one.")
        if {len(self.prompt_tokens), len(self.output_tokens), len(self.session), len(self.block_starts) - 1} != {count}:
            raise UsageError(f"The columns of {self.name!r} differ in length: give one value per request.")
        for column, values in (("prompt_tokens", self.prompt_tokens), ("output_tokens", self.output_tokens)):
            if values.min() < 1:
                place = int(np.argmin(values))
                raise WorkloadError(f"Request {place} of {self.name!r} has {column} = {values[place]}: give 1 or more.")
        if not (np.isfinite(self.arrival).all() and self.arrival[0] >= 0 and (np.diff(self.arrival) >= 0).all()):
            raise WorkloadError(f"The arrivals of {self.name!r} are negative, not finite or run backwards: sort them.")
        if self.clients < 0:
            raise UsageError(f"{self.clients} clients are not possible: give 1 or more, or 0 for recorded arrivals.")

    def __len__(self) -> int:
        return len(self.arrival)

    @classmethod
    def of_lengths(
        cls, arrival: Any, prompt_tokens: Any, output_tokens: Any, *, name: str = "requests"
    ) -> RequestTable:
        """Requests that share nothing: each is its own session."""
        prompts = np.asarray(prompt_tokens, dtype=np.int64)
        count = len(prompts)
        return cls(
            arrival=np.asarray(arrival, dtype=np.float64),
            prompt_tokens=prompts,
            output_tokens=np.asarray(output_tokens, dtype=np.int64),
            session=np.arange(count, dtype=np.int64),
            block_hashes=np.empty(0, dtype=np.int64),
            block_starts=np.zeros(count + 1, dtype=np.int64),
            name=name,
        )

    @classmethod
    def of_workload(cls, workload: Workload, count_tokens: Callable[[str], int] | None = None) -> RequestTable:
        """A workload's requests at their recorded arrivals (0 where it has none: give them others by
        pennyweight.simulate.arrivals). Prompts of text need `count_tokens`; max_tokens is the output length."""
        requests = workload.requests
        hashes = [_hashes(request) for request in requests]
        numbers: dict[tuple[int, str], int] = {}
        flat = [number for texts in hashes for number in _numbered(texts, numbers)]
        sessions: dict[str, int] = {}
        sizes = {request.shape.block_size for request in requests if request.shape and request.shape.block_hashes}
        if len(sizes) > 1:
            raise WorkloadError(f"{workload.name!r} has block hashes of several sizes: simulate one trace at a time.")
        return cls(
            arrival=np.array([request.arrival or 0.0 for request in requests], dtype=np.float64),
            prompt_tokens=np.array([_prompt_tokens(request, workload.name, count_tokens) for request in requests]),
            output_tokens=np.array([request.max_tokens for request in requests], dtype=np.int64),
            session=np.array([sessions.setdefault(r.session, len(sessions)) for r in requests], dtype=np.int64),
            block_hashes=np.array(flat, dtype=np.int64),
            block_starts=np.concatenate([[0], np.cumsum([len(texts) for texts in hashes])]).astype(np.int64),
            hashed_block_size=sizes.pop() if sizes else 0,
            name=workload.name,
        )

    def at(self, arrival: Any) -> RequestTable:
        """The same requests at other times."""
        return replace(self, arrival=np.asarray(arrival, dtype=np.float64), clients=0)

    def closed_loop(self, clients: int) -> RequestTable:
        if clients < 1:
            raise UsageError(f"A closed loop of {clients} clients asks nothing: give 1 or more.")
        return replace(self, clients=clients)

    def faster(self, rate_factor: float) -> RequestTable:
        """The same requests, at `rate_factor` times the rate."""
        if not 0 < rate_factor < float("inf"):
            raise UsageError(f"A rate factor of {rate_factor} is not possible: give one above 0.")
        return self.at(self.arrival / rate_factor)

    def chosen(self, rows: Any) -> RequestTable:
        """Only these rows, in their order."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = np.diff(self.block_starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.block_starts[:-1][rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return replace(
            self,
            arrival=self.arrival[rows],
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            session=self.session[rows],
            block_hashes=self.block_hashes[places],
            block_starts=starts,
        )

    def thinned(self, share: float) -> RequestTable:
        """Evenly spread rows, so many that `share` of them stay: the same ones every time."""
        if not 0 < share <= 1:
            raise UsageError(f"A share of {share} cannot be kept: give one above 0, up to 1.")
        numbers = np.floor(np.arange(len(self) + 1) * share + 1e-9)
        return self.chosen(np.flatnonzero(np.diff(numbers) > 0))

    def repeated(self, count: int, *, shared_blocks: int = 1) -> RequestTable:
        """`count` requests, copies one after the other at the same times; take `at` others. Copies share none of their
        hashes and sessions, except the blocks with the `shared_blocks` most frequent hashes: instructions that all
        have."""
        copies = -(-count // len(self))
        rows = np.tile(np.arange(len(self)), copies)[:count]
        order = np.argsort(self.arrival[rows], kind="stable")
        table = self.chosen(rows[order])
        copy = (np.arange(copies * len(self)) // len(self))[:count][order]
        hashes = table.block_hashes.copy()
        if len(hashes):
            frequent = np.argsort(-np.bincount(self.block_hashes), kind="stable")[:shared_blocks]
            own = ~np.isin(hashes, frequent)
            owners = np.repeat(copy, np.diff(table.block_starts))
            hashes[own] += owners[own] * (int(self.block_hashes.max()) + 1)
        sessions = table.session + copy * (int(self.session.max()) + 1)
        return replace(table, block_hashes=hashes, session=sessions)


def _hashes(request: Request) -> tuple[str, ...]:
    """Of its whole blocks: a block that the prompt fills in part only is never shared."""
    shape = request.shape
    return shape.block_hashes[: shape.tokens // shape.block_size] if shape and shape.block_size else ()


def _numbered(texts: tuple[str, ...], numbers: dict[tuple[int, str], int]) -> list[int]:
    """A number for each block after what is before it: equal blocks after different ones are no shared prefix."""
    found = [-1]
    for text in texts:
        found.append(numbers.setdefault((found[-1], text), len(numbers)))
    return found[1:]


def _prompt_tokens(request: Request, name: str, count_tokens: Callable[[str], int] | None) -> int:
    if request.shape:
        return request.shape.tokens
    if request.prompt_tokens:
        return len(request.prompt_tokens)
    if count_tokens is None:
        raise WorkloadError(
            f"Request {request.id!r} of {name!r} is text of unknown length: name a tokenizer, or give a trace with "
            "token counts."
        )
    text = request.prompt or "\n".join(message["content"] for message in request.messages)
    return max(1, count_tokens(text))
