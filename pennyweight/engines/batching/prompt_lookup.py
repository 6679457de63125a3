"""Draft tokens from the text itself: what followed the last few tokens at their previous occurrence.

Source: Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding.
"""

from __future__ import annotations

from collections.abc import Iterable


class PromptLookup:
    """Where each run of up to `longest` tokens last ended, kept up to date as the text grows."""

    def __init__(self, longest: int) -> None:
        self._sizes = range(longest, min(longest, 2) - 1, -1)  # one token alone says little about the next
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Iterable[int]) -> None:
        """A run is indexed only after another token follows it, so that a lookup never finds itself."""
        for token in tokens:
            for size in self._sizes:
                if size <= len(self._tokens):
                    self._ends[tuple(self._tokens[-size:])] = len(self._tokens)
            self._tokens.append(token)

    def propose(self, most: int) -> list[int]:
        """Up to `most` draft tokens; none if the last tokens did not occur before."""
        for size in self._sizes:
            if size <= len(self._tokens):
                end = self._ends.get(tuple(self._tokens[-size:]))
                if end is not None:
                    return self._tokens[end : end + max(0, most)]
        return []
