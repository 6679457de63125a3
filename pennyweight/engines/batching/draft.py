"""Guesses from a smaller model on the row loop of the library that runs the large one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pennyweight.engines.batching.sampling import Logits

Lengths = NDArray[np.int64]


class Forward(Protocol):
    """What is needed of a `RowRuntime` (rows.py has the meaning of its operations)."""

    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits: ...
    def decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits: ...


class DraftModel:
    """The small model, with one row of its own that holds whatever text it guessed for last."""

    def __init__(self, runtime: Forward) -> None:
        self._runtime = runtime
        self._held: list[int] = []

    def guess(self, text: Sequence[int], most: int) -> list[int]:
        """What it would say next, greedily. Tokens that its row holds already are not computed again."""
        if most < 1:
            return []
        start = beginning(self._held, text[:-1])  # the last one's logits are needed
        self._held = list(text)
        logits = self._runtime.extend(0, text[start:], start, every=False)[-1]
        guesses = [int(logits.argmax())]
        while len(guesses) < most:
            length = np.array([len(self._held)])
            logits = self._runtime.decode(guesses[-1:], length)[0]
            self._held.append(guesses[-1])
            guesses.append(int(logits.argmax()))
        return guesses


class DraftGuesses:
    """The small model's guesses for one request, asked as `PromptLookup` is."""

    def __init__(self, draft: DraftModel) -> None:
        self._draft = draft
        self._text: list[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        self._text.extend(tokens)

    def guess(self, most: int) -> list[int]:
        return self._draft.guess(self._text, most)


def beginning(held: Sequence[int], text: Sequence[int]) -> int:
    """How many tokens both begin with."""
    most = min(len(held), len(text))
    return next((n for n in range(most) if held[n] != text[n]), most)
