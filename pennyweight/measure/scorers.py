"""Was a labelled answer right? One pure function a scorer, each (answer, request) -> bool."""

from __future__ import annotations

import re
from collections.abc import Callable

from pennyweight.errors import WorkloadError
from pennyweight.workload import Request

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
PUNCTUATION = " \t\r\n.,;:!?\"'`()[]{}*"


def exact(answer: str, request: Request) -> bool:
    return _folded(answer) == _folded(request.reference or "")


def contains(answer: str, request: Request) -> bool:
    return (request.reference or "").casefold() in answer.casefold()


def numeric(answer: str, request: Request) -> bool:
    """The last number of the answer: models reason first and conclude last. Thousands commas do not matter."""
    given = _numbers(answer)
    wanted = _numbers(request.reference or "")
    if not given or not wanted:
        return False
    return abs(given[-1] - wanted[-1]) <= 1e-6 * max(1.0, abs(wanted[-1]))


def choice(answer: str, request: Request) -> bool:
    """The first of the choices that stands in the answer as a word of its own."""
    choices = request.choices or ("A", "B", "C", "D", "E")
    places = []
    for option in choices:
        flags = 0 if len(option) == 1 else re.IGNORECASE  # "a" is a word, "A" is a choice
        met = re.search(rf"(?<!\w){re.escape(option)}(?!\w)", answer, flags)
        if met:
            places.append((met.start(), option))
    return bool(places) and _folded(min(places)[1]) == _folded(request.reference or "")


def regex(answer: str, request: Request) -> bool:
    return re.search(request.reference or "", answer) is not None


SCORERS: dict[str, Callable[[str, Request], bool]] = {
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "choice": choice,
    "regex": regex,
}


def is_right(answer: str, request: Request) -> bool:
    if request.scorer is None or request.reference is None:
        raise WorkloadError(f"Request {request.id!r} has no scorer and reference: label it, or do not score it.")
    return SCORERS[request.scorer](answer, request)


def _folded(text: str) -> str:
    return text.strip(PUNCTUATION).casefold()


def _numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]
