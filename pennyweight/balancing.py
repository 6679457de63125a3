"""Which replica gets a request: pure functions, so that the gateway and a simulation of it choose alike."""

from __future__ import annotations

from collections.abc import Sequence

AFFINITY = 0.25  # of the busiest replica's tokens that another may be busier, for a prompt whose beginning it knows


def choose(outstanding: Sequence[int], known: Sequence[int]) -> int:
    """The place of the least busy replica, or of one that knows more of the prompt's beginning and is hardly busier.

    `outstanding` counts the tokens that each was asked for and has not answered, `known` the prompt's first blocks that
    each has seen. Equal ones are taken in their order.
    """
    places = range(len(outstanding))
    least = min(places, key=lambda place: outstanding[place])
    knowing = max(places, key=lambda place: (known[place], -outstanding[place]))
    close = outstanding[knowing] <= outstanding[least] + AFFINITY * max(outstanding)
    return knowing if known[knowing] > known[least] and close else least
