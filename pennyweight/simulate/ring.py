"""Consistent hashing: every replica owns many places on a ring, and a session belongs to the next place after its own.
When a replica goes, only its sessions move (Karger et al. 1997, doi.org/10.1145/258533.258660)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PLACES = 32  # of one replica: more make shares more even


def ring(replicas: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places in order, and the replica that owns each."""
    numbers = np.arange(replicas * PLACES, dtype=np.uint64)
    positions = (_mixed(_mixed(numbers) + np.uint64(seed)) >> np.uint64(1)).astype(np.int64)
    order = np.argsort(positions, kind="stable")
    return positions[order], order.astype(np.int64) // PLACES


def session_places(sessions: NDArray[np.int64]) -> NDArray[np.int64]:
    return (_mixed(sessions.astype(np.uint64) ^ np.uint64(0x5E5510)) >> np.uint64(1)).astype(np.int64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`random_numbers.mixed` of many numbers."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
