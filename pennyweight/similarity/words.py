"""Words of a question, compared as a reader would: without endings, filler and small typing errors. The lists are
English (english.json); other languages have none, and are compared as they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?[+#]*|\d[\d.,:/]*")
ENGLISH: dict[str, Any] = json.loads(resources.files(__package__).joinpath("english.json").read_text(encoding="utf-8"))
FILLER, NEGATIONS = (frozenset(ENGLISH[name].split()) for name in ("filler", "negations"))
QUESTIONS = ("who", "when", "where", "how", "why", "what", "which")
ENDINGS = ("ations", "ation", "ingly", "edly", "ings", "ing", "ies", "ied", "es", "ed", "ly", "s")
OPPOSITE_PREFIXES = ("un", "in", "non", "dis", "de", "im", "il", "ir", "mis")
MISTYPED = 4  # letters that a word needs, to be taken for another with one slip


def _pairs(groups: Sequence[str]) -> dict[str, frozenset[str]]:
    """Each word's stem -> the stems of those in a group with it."""
    found: dict[str, frozenset[str]] = {}
    for group in groups:
        stems = {stem(word) for word in group.split()}
        for one in stems:
            found[one] = found.get(one, frozenset()) | (stems - {one})
    return found


def words_of(text: str) -> list[str]:
    """Lower case, in order; numbers too."""
    return [found.replace("’", "'") for found in WORD.findall(text.lower())]


def content_of(words: Iterable[str]) -> list[str]:
    """Stems of the words that carry the meaning."""
    return [stem(word) for word in words if word not in FILLER and not word[0].isdecimal()]


@lru_cache(maxsize=1 << 14)
def stem(word: str) -> str:
    """Without its ending, roughly: enough to see that two words belong together."""
    word = word.removesuffix("'s")
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word.removesuffix("e") if len(word) > 3 else word


@lru_cache(maxsize=1 << 16)
def alike(first: str, second: str) -> bool:
    """The same word, or one slip of the keys apart."""
    if first == second:
        return True
    if min(len(first), len(second)) < MISTYPED or abs(len(first) - len(second)) > 1:
        return False
    if (first[0] != second[0] and first[-1] != second[-1]) or not (first + second).isascii():
        return False
    if len(first) == len(second):
        differ = [n for n in range(len(first)) if first[n] != second[n]]
        swapped = len(differ) == 2 and differ[1] == differ[0] + 1
        return (len(differ) == 1 and differ[0] < len(first) - 1) or (  # payer is not payee
            swapped and first[differ[0]] == second[differ[1]] and first[differ[1]] == second[differ[0]]
        )
    shorter, longer = sorted((first, second), key=len)
    return any(shorter == longer[:n] + longer[n + 1 :] for n in range(len(longer) - 1))


def same_meaning(first: str, second: str) -> bool:
    """Of two stems: alike, or in a list of words for the same thing."""
    return alike(first, second) or second in SYNONYMS.get(first, ())


def opposite(first: str, second: str) -> bool:
    """Of two stems."""
    if second in ANTONYMS.get(first, ()):
        return True
    shorter, longer = sorted((first, second), key=len)
    return len(shorter) >= MISTYPED and any(longer == prefix + shorter for prefix in OPPOSITE_PREFIXES)


def unmatched(mine: Sequence[str], its: Sequence[str]) -> list[str]:
    """Stems of one question that the other has nothing for."""
    there = set(its)
    return [one for one in mine if one not in there and not any(same_meaning(one, other) for other in there)]


ANTONYMS, SYNONYMS = _pairs(ENGLISH["opposites"]), _pairs(ENGLISH["same"])
