"""Questions whose answer depends on the moment or on who asks: they are always asked."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pennyweight.similarity.words import ENGLISH

VOLATILE: tuple[str, ...] = tuple(ENGLISH["volatile"])
OWN = r"(?:my|our)\s+(?:\w+\s+){0,2}"  # "my balance", "my last card payment"
OF_OWN = r"\s+(?:of|on|in|for)\s+(?:my|our)(?!\w)"  # "the balance of my account"


class Phrases:
    """Finds any of some phrases: whole words in any case and spacing."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._found = re.compile(rf"(?<!\w)(?:{_either(phrases)})(?!\w)")

    def __call__(self, text: str) -> bool:
        return self._found.search(_folded(text)) is not None


class Volatile:
    """Finds words and phrases, whole words in any case and spacing; `more` are the user's own."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        either = _either([*VOLATILE, *more])
        nouns = "|".join(map(re.escape, ENGLISH["personal"]))
        self._found = re.compile(rf"(?<!\w)(?:{either}|{OWN}(?:{nouns}))(?!\w)|(?<!\w)(?:{nouns}){OF_OWN}")

    def __call__(self, text: str) -> bool:
        return self._found.search(_folded(text)) is not None


def _either(phrases: Iterable[str]) -> str:
    """The longest first."""
    found = sorted({one.strip().lower() for one in phrases if one.strip()}, key=len, reverse=True)
    return "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in found)


def _folded(text: str) -> str:
    return text.lower().replace("’", "'")
