"""Draft tokens from a smaller model, run by the same library as the target model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pennyweight.engines.batching.sampling import Logits

Lengths = NDArray[np.int64]
CAUGHT_UP_TOGETHER = 16  # tokens, above which padding all rows to the longest costs more than one row at a time


class Forward(Protocol):
    """What is needed of a `RowRuntime` (rows.py documents its operations)."""

    verifies_rows: bool

    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits: ...
    def decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits: ...
    def verify(self, fed: Sequence[Sequence[int]], lengths: Lengths) -> Sequence[Logits]: ...
    def move(self, source: int, target: int, length: int) -> None: ...


class DraftModel:
    """The draft model, with a row for each row of the model that it drafts for, in the same order. What a row holds of
    its text is not computed again."""

    def __init__(self, runtime: Forward) -> None:
        self._runtime = runtime
        self._held: list[list[int]] = []

    def propose(self, texts: Sequence[Sequence[int]], most: Sequence[int]) -> list[list[int]]:
        """For each row up to `most` next tokens, greedily."""
        longest = max(most, default=0)
        if longest < 1:
            return [[] for _ in texts]
        drafts = [[int(logits.argmax())] for logits in self._caught_up(texts)]
        for _ in range(longest - 1):
            going = [len(draft) < count for draft, count in zip(drafts, most, strict=True)]
            rows = list(zip(self._held, drafts, going, strict=False))
            # a row that has all of its draft computes its last token again, at its own place
            tokens = [draft[-1] if goes else held[-1] for held, draft, goes in rows]
            lengths = np.array([len(held) - (not goes) for held, _, goes in rows])
            for (held, draft, goes), row in zip(rows, self._runtime.decode(tokens, lengths), strict=True):
                if goes:
                    held.append(draft[-1])
                    draft.append(int(row.argmax()))
        return [draft[: max(0, count)] for draft, count in zip(drafts, most, strict=True)]

    def release(self, index: int, last: int) -> None:
        """The row has ended, and the last one takes its place."""
        if index >= len(self._held):
            return
        if index != last and last < len(self._held):
            self._runtime.move(last, index, len(self._held[last]))
            self._held[index] = self._held[last]
        elif index != last:
            self._held[index] = []
        del self._held[last:]

    def _caught_up(self, texts: Sequence[Sequence[int]]) -> list[Logits]:
        """The logits after each text: (vocabulary,)."""
        self._held += [[] for _ in range(len(texts) - len(self._held))]
        starts = [beginning(held, text[:-1]) for held, text in zip(self._held, texts, strict=False)]
        fed = [list(text[start:]) for text, start in zip(texts, starts, strict=True)]
        self._held[: len(texts)] = [list(text) for text in texts]
        if self._runtime.verifies_rows and len(texts) > 1 and max(map(len, fed)) <= CAUGHT_UP_TOGETHER:
            return [logits[-1] for logits in self._runtime.verify(fed, np.array(starts))]
        rows = enumerate(zip(fed, starts, strict=True))
        return [self._runtime.extend(row, tokens, start, every=False)[-1] for row, (tokens, start) in rows]


def beginning(held: Sequence[int], text: Sequence[int]) -> int:
    """Length of the common prefix of both."""
    most = min(len(held), len(text))
    return next((n for n in range(most) if held[n] != text[n]), most)
