"""A continuously formed batch for libraries that only run a model forward.

Each running request owns a row of one key-value store. A step admits one waiting prompt, then decodes one token for
every row. Rows are kept dense: when one ends, the last one takes its place. A library supplies three operations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pennyweight.engines import Event, Generation, Score
from pennyweight.engines.sampling import Logits, Sampler, log_softmax

Lengths = NDArray[np.int64]


@dataclass
class Row:
    """A running request. `length` counts positions in the store; `last` is the token to feed next."""

    generation: Generation
    sampler: Sampler
    length: int
    last: int = 0
    made: int = 0

    def take(self, logits: Logits) -> Event:
        """Draw the next token and say what became of it. An end token itself is not part of the answer."""
        token, logprob, alternatives = self.sampler.draw(logits)
        self.last = token
        self.made += 1
        if token in self.generation.stop_tokens:
            return Event(self.generation.id, finish="stop")
        finish = "length" if self.made >= self.generation.max_tokens else None
        return Event(self.generation.id, (token,), (logprob,), (alternatives,), finish)


class RowRuntime(ABC):
    """The loop; a subclass knows the library."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._waiting: deque[Generation] = deque()
        self._rows: list[Row] = []

    @abstractmethod
    def _prefill(self, row: int, prompt: Sequence[int]) -> Logits:
        """Fill a row of the store from its beginning; logits after the last token, (vocabulary,)."""

    @abstractmethod
    def _decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits:
        """One token for each of the first rows, which hold `lengths` positions; logits (rows, vocabulary)."""

    @abstractmethod
    def _move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row over another's."""

    @abstractmethod
    def _logits(self, tokens: Sequence[int]) -> Logits:
        """Logits at every position of one sequence, outside the store's rows in use; (tokens, vocabulary)."""

    def submit(self, generation: Generation) -> None:
        self._waiting.append(generation)

    def step(self) -> list[Event]:
        events: list[Event] = []
        if self._waiting and len(self._rows) < self._max_rows:
            events.append(self._admit(self._waiting.popleft()))
        if self._rows:
            events.extend(self._advance())
        return events

    def cancel(self, generation_id: str) -> None:
        self._waiting = deque(g for g in self._waiting if g.id != generation_id)
        for index, row in enumerate(self._rows):
            if row.generation.id == generation_id:
                self._release(index)
                return

    def score(self, tokens: Sequence[int], start: int) -> Score:
        logprobs = log_softmax(self._logits(tokens)[start - 1 : -1])
        top = logprobs.argmax(axis=-1)
        places = np.arange(len(top))
        own = logprobs[places, np.asarray(tokens[start:])]
        return Score(own.tolist(), top.tolist(), logprobs[places, top].tolist())

    def close(self) -> None:
        self._rows.clear()

    def _admit(self, generation: Generation) -> Event:
        row = Row(generation, Sampler(generation), len(generation.prompt))
        event = row.take(self._prefill(len(self._rows), generation.prompt))
        if event.finish is None:
            self._rows.append(row)
        return event

    def _advance(self) -> list[Event]:
        lengths = np.array([row.length for row in self._rows])
        logits = self._decode([row.last for row in self._rows], lengths)
        events = []
        for row, row_logits in zip(self._rows, logits, strict=True):
            row.length += 1
            events.append(row.take(row_logits))
        for index in range(len(events) - 1, -1, -1):
            if events[index].finish:
                self._release(index)
        return events

    def _release(self, index: int) -> None:
        last = len(self._rows) - 1
        if index != last:
            self._move(last, index, self._rows[last].length)
            self._rows[index] = self._rows[last]
        self._rows.pop()
