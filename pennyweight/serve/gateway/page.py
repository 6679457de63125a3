"""The page at /: what the gateway does at the moment, and the evidence that its deployment was accepted with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

HEADERS = {
    "content-security-policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}


@cache
def html() -> str:
    return resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")


def accepted_with(evidence: Mapping[str, Any]) -> list[list[str]]:
    """The limits of the budget and how they were held, as rows of a table."""
    rows = [[limit["reason"], limit["outcome"]] for limit in (evidence.get("limits") or {}).get("limits", [])]
    comparison = (evidence.get("speedup") or {}).get("baseline")
    if comparison:
        low, high = comparison["ci95"]
        rows.append([f"{comparison['ratio']:.2f} times as fast as {comparison['against']}", f"{low:.2f} to {high:.2f}"])
    return rows
