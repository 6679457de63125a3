"""What a simulation hands over, whether plain or compiled: arrays with one value per request."""

from __future__ import annotations

from dataclasses import dataclass

from pennyweight.simulate.request_table import Floats, Integers


@dataclass(frozen=True, eq=False)
class Outcome:
    """Times in seconds. `admitted` is when a replica's first step with the request began, `cached` how many tokens of
    its prompt were in that replica's prefix cache, `replica` the one that finished it."""

    arrival: Floats
    admitted: Floats
    first_token: Floats
    last_token: Floats
    replica: Integers
    preemptions: Integers
    cached: Integers
    replica_seconds: float
    seconds: float
