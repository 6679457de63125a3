"""Draft tokens from a smaller model, run by the same library as the target model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pennyweight.engines.batching.sampling import Logits

Lengths = NDArray[np.int64]


class Forward(Protocol):
    """What is needed of a `RowRuntime` (rows.py documents its operations)."""

    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits: ...
    def decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits: ...


class DraftModel:
    """The draft model, with one row that holds the text of its latest draft."""

    def __init__(self, runtime: Forward) -> None:
        self._runtime = runtime
        self._held: list[int] = []

    def propose(self, text: Sequence[int], most: int) -> list[int]:
        """Up to `most` next tokens, greedily. Tokens that its row already holds are not computed again."""
        if most < 1:
            return []
        start = beginning(self._held, text[:-1])  # the last one's logits are needed
        self._held = list(text)
        logits = self._runtime.extend(0, text[start:], start, every=False)[-1]
        draft = [int(logits.argmax())]
        while len(draft) < most:
            length = np.array([len(self._held)])
            logits = self._runtime.decode(draft[-1:], length)[0]
            self._held.append(draft[-1])
            draft.append(int(logits.argmax()))
        return draft


class DraftProposer:
    """The draft model's tokens for one request, with the interface of `PromptLookup`."""

    def __init__(self, draft: DraftModel) -> None:
        self._draft = draft
        self._text: list[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        self._text.extend(tokens)

    def propose(self, most: int) -> list[int]:
        return self._draft.propose(self._text, most)


def beginning(held: Sequence[int], text: Sequence[int]) -> int:
    """Length of the common prefix of both."""
    most = min(len(held), len(text))
    return next((n for n in range(most) if held[n] != text[n]), most)
