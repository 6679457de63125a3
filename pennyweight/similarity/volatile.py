"""Questions whose answer depends on the moment or on who asks: they are always asked."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pennyweight.similarity.words import ENGLISH

VOLATILE: tuple[str, ...] = tuple(ENGLISH["volatile"])


class Volatile:
    """Finds words and phrases, whole words in any case; `more` are the user's own."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        phrases = sorted({*VOLATILE, *(one.strip().lower() for one in more if one.strip())}, key=len, reverse=True)
        self._found = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, phrases)) + r")(?!\w)")

    def __call__(self, text: str) -> bool:
        return self._found.search(text.lower().replace("’", "'")) is not None
