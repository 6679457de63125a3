"""Tenants: the owner of an API key, with limits and priority."""

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


ANONYMOUS = Tenant("anybody")  # when no API keys are required
