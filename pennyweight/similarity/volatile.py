"""Questions whose answer depends on the moment or on who asks: they are always asked."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pennyweight.similarity.words import ENGLISH

VOLATILE: tuple[str, ...] = tuple(ENGLISH["volatile"])
OWN = r"(?:my|our)\s+(?:\w+\s+){0,2}"  # "my balance", "my last card payment"
OF_OWN = r"\s+(?:of|on|in|for)\s+(?:my|our)(?!\w)"  # "the balance of my account"


class Volatile:
    """Finds words and phrases, whole words in any case and spacing; `more` are the user's own."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        phrases = sorted({*VOLATILE, *(one.strip().lower() for one in more if one.strip())}, key=len, reverse=True)
        either = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases)
        nouns = "|".join(map(re.escape, ENGLISH["personal"]))
        self._found = re.compile(rf"(?<!\w)(?:{either}|{OWN}(?:{nouns}))(?!\w)|(?<!\w)(?:{nouns}){OF_OWN}")

    def __call__(self, text: str) -> bool:
        return self._found.search(text.lower().replace("’", "'")) is not None
