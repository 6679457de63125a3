"""Was a labelled answer right? One pure function a scorer, each (answer, request) -> bool."""

from __future__ import annotations

import re
from collections.abc import Callable

from pennyweight.errors import WorkloadError
from pennyweight.mixing.agreement import LETTERS, first_choice, folded, numbers, same_number
from pennyweight.workload import Request


def exact(answer: str, request: Request) -> bool:
    return folded(answer) == folded(request.reference or "")


def contains(answer: str, request: Request) -> bool:
    return (request.reference or "").casefold() in answer.casefold()


def numeric(answer: str, request: Request) -> bool:
    """The last number of the answer: models reason first and conclude last. Thousands commas do not matter."""
    return same_number(numbers(answer)[-1:], numbers(request.reference or "")[-1:])


def choice(answer: str, request: Request) -> bool:
    """The first of the choices that stands in the answer as a word of its own."""
    return first_choice(answer, request.choices or LETTERS) == folded(request.reference or "")


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
