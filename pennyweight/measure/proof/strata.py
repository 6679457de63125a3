"""The order in which a proof looks at requests: short and long, each kind and each script in turn, so that the first
look has seen all of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from pennyweight.workload import Request, Workload, texts

LENGTH_CLASSES = 4


def in_turns(workload: Workload) -> list[Request]:
    """All requests, one of each stratum after the other; within a stratum sessions in a seeded order."""
    requests = workload.shuffled().requests
    classes = _length_classes(requests)
    strata: dict[tuple[str, str, int], list[Request]] = {}
    for request in requests:
        strata.setdefault((request.kind, script_of(request), classes[request.id]), []).append(request)
    return list(_proportional(list(strata.values()), len(requests)))


def script_of(request: Request) -> str:
    """The script of most of its letters, such as LATIN, CJK or CYRILLIC; empty without text."""
    counts: dict[str, int] = {}
    for letter in "".join(texts([request]))[-2000:]:
        if letter.isalpha():
            name = unicodedata.name(letter, "").split(" ")[0]
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda name: counts[name], default="")


def _length_classes(requests: tuple[Request, ...]) -> dict[str, int]:
    """Quarters by the length of the prompt."""
    ordered = sorted(requests, key=_length)
    return {request.id: LENGTH_CLASSES * place // len(ordered) for place, request in enumerate(ordered)}


def _length(request: Request) -> int:
    if request.prompt_tokens:
        return len(request.prompt_tokens)
    return sum(map(len, texts([request]))) or (request.shape.tokens if request.shape else 0)


def _proportional(strata: list[list[Request]], count: int) -> Iterator[Request]:
    """At every moment each stratum has given its share, as nearly as whole requests allow."""
    given = [0] * len(strata)
    for number in range(1, count + 1):
        behind = [
            len(s) * number / count - given[n] if given[n] < len(s) else float("-inf") for n, s in enumerate(strata)
        ]
        chosen = max(range(len(strata)), key=behind.__getitem__)
        yield strata[chosen][given[chosen]]
        given[chosen] += 1
