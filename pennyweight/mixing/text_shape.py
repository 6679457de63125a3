"""Numbers that say how hard a text looks, without knowing its language."""

from __future__ import annotations

import math
import re

NUMBER = re.compile(r"\d[\d.,]*")
LARGEST = 1e15
SENTENCE_END = re.compile(r"[.?!。？！]\s*")
MEASURES = (
    "length",
    "numbers",
    "largest number",
    "sentences",
    "questions",
    "lines",
    "percent signs",
    "fractions",
    "words a sentence",
    "other words",
)


def text_shape(text: str) -> tuple[float, ...]:
    """One number for each of `MEASURES`."""
    words = text.split()
    sentences = max(1, len([part for part in SENTENCE_END.split(text) if part.strip()]))
    numbers = [_value(found) for found in NUMBER.findall(text)]
    return (
        math.log1p(len(text)),
        float(len(numbers)),
        math.log1p(max(numbers, default=0.0)),
        float(sentences),
        float(text.count("?") + text.count("？")),
        float(text.count("\n")),
        float(text.count("%")),
        float(text.count("/")),
        len(words) / sentences,
        len({word.lower() for word in words}) / max(1, len(words)),
    )


def _value(text: str) -> float:
    """1,234.5 as a number; what is none (1.2.3) by its digits before the first point."""
    plain = text.replace(",", "").rstrip(".")
    try:
        return min(float(plain), LARGEST)
    except ValueError:
        return min(float(plain.split(".")[0] or 0), LARGEST)
