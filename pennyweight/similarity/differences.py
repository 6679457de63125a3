"""What makes the answer to one question another's: each is a small number, 0 where nothing speaks against it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pennyweight.similarity.numbers import codes_of, dates_of, numbers_of
from pennyweight.similarity.words import (
    ENGLISH,
    FILLER,
    NEGATIONS,
    QUESTIONS,
    alike,
    content_of,
    opposite,
    stem,
    unmatched,
    words_of,
)

SYMBOLS = re.compile(r"(?<=\s)[-+*/<>=](?=\s)|[<>=]+|\+\+|#")
MODALS = {word: group for group, words in ENGLISH["modals"].items() for word in words.split()}
CAPITAL = re.compile(r"[^\W\d_][\w&'’-]*")
SENTENCE_ENDS = ".?!:\n"
PLACING, PEOPLE = (frozenset(ENGLISH[name].split()) for name in ("placing", "people"))
MOST = 3
LEAST_TURNED, SHARED = 3, 0.7  # words whose order says something; of all that are shared


@dataclass(frozen=True)
class Question:
    """A question, and what is compared of it."""

    text: str

    @cached_property
    def words(self) -> list[str]:
        return words_of(self.text)

    @cached_property
    def content(self) -> list[str]:
        return content_of(self.words)

    @cached_property
    def numbers(self) -> list[tuple[str, str]]:
        return numbers_of(self.text)

    @cached_property
    def names(self) -> list[str]:
        """Words with a capital that begin no sentence, folded."""
        found = []
        for met in CAPITAL.finditer(self.text):
            before = self.text[: met.start()].rstrip()
            word = met.group().replace("’", "'")
            if (
                word[0].isupper()
                and before
                and before[-1] not in SENTENCE_ENDS
                and not word.startswith(("I'", "I’"))
                and word != "I"
            ):
                found.append(word.lower().removesuffix("'s"))
        return found

    @cached_property
    def scripts(self) -> frozenset[str]:
        """Alphabets, as the first letter of each character's name tells them apart roughly: by blocks of 256."""
        return frozenset(str(ord(letter) >> 8) for letter in self.text if letter.isalpha() and ord(letter) > 0x24F)


def negation(first: Question, second: Question) -> int:
    """1 where one is negated and the other is not."""
    counts = [sum(word in NEGATIONS or word.endswith("n't") for word in one.words) % 2 for one in (first, second)]
    return int(counts[0] != counts[1])


def opposites(first: Question, second: Question) -> int:
    """Pairs of opposite words, one on each side."""
    mine, its = (set(map(stem, one.words)) for one in (first, second))
    return min(MOST, sum(opposite(a, b) for a in mine - its for b in its - mine))


def other_numbers(first: Question, second: Question) -> int:
    return int(first.numbers != second.numbers and not _both_named(first, second))


def _both_named(first: Question, second: Question) -> bool:
    """The same values, where only one names the unit."""
    values = [[value for value, _ in one.numbers] for one in (first, second)]
    units = [{unit for _, unit in one.numbers if unit} for one in (first, second)]
    return values[0] == values[1] and not all(units)


def other_dates(first: Question, second: Question) -> int:
    return int(dates_of(first.words) != dates_of(second.words))


def other_codes(first: Question, second: Question) -> int:
    return int(codes_of(first.text) != codes_of(second.text))


def other_names(first: Question, second: Question) -> int:
    """Names that the other side does not have in any case."""

    def missing(mine: Question, its: Question) -> int:
        there = set(CAPITAL.findall(its.text.lower().replace("’", "'"))) | set(its.words)
        whole = {word.removesuffix("'s") for word in there}  # a slip in a name is another name
        return sum(name not in whole for name in set(mine.names))

    return min(MOST, missing(first, second) + missing(second, first))


def other_people(first: Question, second: Question) -> int:
    mine, its = (set(one.words) for one in (first, second))
    return min(
        MOST,
        sum(not any(alike(one, other) for other in b) for a, b in ((mine, its), (its, mine)) for one in a & PEOPLE),
    )


def other_question(first: Question, second: Question) -> int:
    """Who instead of when."""
    asked = [next((word for word in one.words if word in QUESTIONS), "") for one in (first, second)]
    return int(asked[0] != asked[1])


def other_order(first: Question, second: Question) -> int:
    """The same words in other places: from A to B, and from B to A. Counts words that stand behind another of the words
    that place them, and words that have changed sides where nothing else differs."""
    mine, its = _placed(first.words), _placed(second.words)
    shared = mine.keys() & its.keys()
    if unmatched(first.content, second.content) or unmatched(second.content, first.content):
        return min(MOST, sum(mine[word] != its[word] for word in shared if mine[word] and its[word]))
    free = [[word for word in one.content if not places.get(word)] for one, places in ((first, mine), (second, its))]
    return min(MOST, sum(mine[word] != its[word] for word in shared) + _inversions(*free))


def _placed(words: Sequence[str]) -> dict[str, str]:
    """Each content word's nearest placing word before it, empty where there is none."""
    found, before = {}, ""
    for word in words:
        if word in PLACING:
            before = "to" if word == "into" else word
        elif word not in FILLER:
            found[stem(word)] = before
    return found


def _inversions(mine: Sequence[str], its: Sequence[str]) -> int:
    once = [one for one in mine if mine.count(one) == 1 and its.count(one) <= 1]  # a repeated word has no one place
    places = [next((n for n, other in enumerate(its) if alike(one, other)), -1) for one in once]
    known = [place for place in places if place >= 0]
    return sum(later < earlier for n, earlier in enumerate(known) for later in known[n + 1 :])


def other_symbols(first: Question, second: Question) -> int:
    """Signs that calculate, compare or name: 7 - 5 and 5 + 7, C++ and C#, > and <."""
    return int(SYMBOLS.findall(first.text) != SYMBOLS.findall(second.text))


def other_modals(first: Question, second: Question) -> int:
    """Can, must, should; all, some, only; until, from: one side has what the other has nothing for."""
    mine, its = (_modals(one.words) for one in (first, second))
    return int(mine != its)


def _modals(words: Sequence[str]) -> frozenset[str]:
    return frozenset(MODALS[word] for word in words if word in MODALS)


def unread(first: Question, second: Question) -> int:
    """1 where letters beyond Latin stand in either and they are not the same text: no list here knows them."""
    return int(bool(first.scripts or second.scripts) and first.words != second.words)


def vetoed(first: Question, second: Question) -> bool:
    """What makes it another question, whatever else is near."""
    guards = (other_numbers, other_dates, other_codes, turned, other_symbols, other_modals, unread)
    return any(guard(first, second) for guard in guards)


def turned(first: Question, second: Question) -> int:
    """1 where from has become to, or where words that both have stand in another order and no phrase has only moved to
    the front: Did Alice hit Bob, did Bob hit Alice. Only where most words are shared."""
    mine, its = _placed(first.words), _placed(second.words)
    if any({mine[word], its[word]} == {"from", "to"} for word in mine.keys() & its.keys()):
        return 1
    one = [word for word in first.content if first.content.count(word) == second.content.count(word) == 1]
    other = [word for word in second.content if word in one]
    whole = max(len(set(first.content)), len(set(second.content)), 1)
    explained = any(mine.get(word) for word in one) and all(mine.get(word) == its.get(word) for word in one)
    if len(one) < LEAST_TURNED or len(one) < SHARED * whole or explained:
        return 0
    return int(all(one[n:] + one[:n] != other for n in range(len(one))))


def other_language(first: Question, second: Question) -> int:
    return int(first.scripts != second.scripts)
