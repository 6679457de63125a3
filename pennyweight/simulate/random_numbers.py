"""Random numbers without a state: the same for the same seed and place, in plain and in compiled code."""

from __future__ import annotations

MASK = (1 << 64) - 1


def mixed(value: int) -> int:
    """A 64-bit number that looks random: the finalizer of SplitMix64 (Steele, Lea and Flood 2014,
    doi.org/10.1145/2660193.2660195)."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def drawn(seed: int, place: int, draw: int) -> int:
    """The `draw`-th number at a place, below 2^63."""
    return mixed((seed + mixed((2 * place + draw) & MASK)) & MASK) >> 1
