"""Whose request it is, and how soon it is served."""

from __future__ import annotations

from dataclasses import dataclass

INTERACTIVE, BATCH = 0, 100  # priorities: the lower, the sooner


@dataclass(frozen=True)
class Tenant:
    """The owner of one API key; 0 a minute means no limit."""

    name: str
    hash: str = ""
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    priority: int = INTERACTIVE


ANYBODY = Tenant("anybody")  # where no keys are asked for
