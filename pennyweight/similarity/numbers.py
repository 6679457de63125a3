"""Numbers, amounts, times and dates of a question, in one spelling each: "fifty pounds" is "£50", "2 weeks" are "14
days", and 7am is not 7pm."""

from __future__ import annotations

import re

from pennyweight.similarity.words import ENGLISH

ONES = {word: n for n, word in enumerate(ENGLISH["ones"].split())}
TENS = {word: 10 * n for n, word in enumerate(ENGLISH["tens"].split(), 2)}
FACTORS = {"hundred": 100, "thousand": 1000, "k": 1000, "million": 1e6, "m": 1e6, "bn": 1e9, "billion": 1e9}
UNITS = {
    **dict.fromkeys(("£", "pound", "pounds", "gbp", "quid"), ("gbp", 1.0)),
    **dict.fromkeys(("$", "dollar", "dollars", "usd", "bucks"), ("usd", 1.0)),
    **dict.fromkeys(("€", "euro", "euros", "eur"), ("eur", 1.0)),
    **dict.fromkeys(("%", "percent", "per cent"), ("%", 1.0)),
    **dict.fromkeys(("day", "days"), ("day", 1.0)),
    **dict.fromkeys(("week", "weeks"), ("day", 7.0)),
    **dict.fromkeys(("month", "months"), ("month", 1.0)),
    **dict.fromkeys(("year", "years"), ("month", 12.0)),
    **dict.fromkeys(("hour", "hours", "hr", "hrs"), ("minute", 60.0)),
    **dict.fromkeys(("minute", "minutes", "min", "mins"), ("minute", 1.0)),
    **dict.fromkeys(("kg", "kilo", "kilos"), ("kg", 1.0)),
    **dict.fromkeys(("gb",), ("mb", 1000.0)),
    **dict.fromkeys(("mb",), ("mb", 1.0)),
    **dict.fromkeys(("km",), ("m", 1000.0)),
    **dict.fromkeys(("am", "a.m."), ("am", 1.0)),
    **dict.fromkeys(("pm", "p.m."), ("pm", 1.0)),
}
TOKEN = re.compile(r"[£$€]|\d[\d,]*(?:[.:]\d+)*|%|[ap]\.m\.|[^\W\d_]+")
DAYS, MONTHS = (frozenset(ENGLISH[name].split()) for name in ("days", "months"))
CODES = re.compile(r"\b[^\W\d_]+-?\d[\w-]*\b|\b\d+[^\W\d_]+\d[\w-]*\b")  # HH-55102, P60, 3G4
LONGEST_NUMBER = 12  # digits: more are a name
SUFFIXES = ("st", "nd", "rd", "th")


def numbers_of(text: str) -> list[tuple[str, str]]:
    """(value, unit) of each, in their order; what is no plain number (9:15, 3.10, 18 digits) keeps its spelling."""
    tokens = TOKEN.findall(text.lower().replace("per cent", "percent"))
    found: list[tuple[str, str]] = []
    place = 0
    while place < len(tokens):
        value, after = _value(tokens, place)
        if value is None:
            place += 1
            continue
        before = tokens[place - 1] if place else ""
        unit, factor = UNITS.get(tokens[after] if after < len(tokens) else "", UNITS.get(before, ("", 1.0)))
        found.append((value if isinstance(value, str) else f"{value * factor:.12g}", unit))
        place = after
    return found


def _value(tokens: list[str], place: int) -> tuple[float | str | None, int]:
    """The number that begins here, if one does, and the place after it."""
    token = tokens[place]
    if token[0].isdecimal():
        plain = token.replace(",", "")
        exact = ":" in plain or len(plain) > LONGEST_NUMBER or "." in plain
        value: float | str = plain if exact else float(plain)
        place += 1
    elif token in TENS:
        one = ONES.get(tokens[place + 1], 10) if place + 1 < len(tokens) else 10
        value, place = float(TENS[token] + (one if one < 10 else 0)), place + 1 + (one < 10)
    elif token in ONES and token != "one":  # "one" is seldom a number
        value, place = float(ONES[token]), place + 1
    else:
        return None, place
    while place < len(tokens) and tokens[place] in FACTORS and not isinstance(value, str):
        value, place = value * FACTORS[tokens[place]], place + 1
    return value, place + (place < len(tokens) and tokens[place] in SUFFIXES)


def dates_of(words: list[str]) -> frozenset[str]:
    """Names of days and months, singular."""
    return frozenset(word for word in (one.removesuffix("s") for one in words) if word in DAYS | MONTHS)


def codes_of(text: str) -> frozenset[str]:
    """Words of letters and digits: order numbers, models, versions."""
    return frozenset(CODES.findall(text.lower()))
