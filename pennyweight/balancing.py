"""Which replica gets a request: pure functions, so that the gateway and a simulation of it choose alike."""

from __future__ import annotations

from collections.abc import Sequence

AFFINITY = 0.25  # a replica that has the prompt's prefix may be busier by this share of the largest load


def choose(outstanding: Sequence[int], known: Sequence[int]) -> int:
    """The place of the least busy replica, or of one that has more of the prompt's prefix and is hardly busier.

    `outstanding` counts the tokens of each replica's unanswered requests, `known` the prompt's first blocks that it has
    seen. Ties go to the first.
    """
    places = range(len(outstanding))
    least = min(places, key=lambda place: outstanding[place])
    bound = outstanding[least] + AFFINITY * max(outstanding)
    close = (place for place in places if outstanding[place] <= bound)
    knowing = max(close, key=lambda place: (known[place], -outstanding[place]))
    return knowing if known[knowing] > known[least] else least
