"""The page at /: what the gateway does at the moment, and the evidence that its service was accepted with."""

from __future__ import annotations

from functools import cache
from importlib import resources

from pennyweight.evidence import Evidence

HEADERS = {
    "content-security-policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}


@cache
def html() -> str:
    return resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")


def accepted_with(evidence: Evidence | None) -> list[list[str]]:
    """The limits of the budget and how they were held, and the two comparisons, as rows of a table."""
    if evidence is None:
        return []
    rows = [[limit.reason, str(limit.outcome)] for limit in evidence.limits.limits]
    for what, speedup in (
        ("the unmodified baseline", evidence.against_baseline),
        ("the fastest unmodified engine", evidence.against_unmodified),
    ):
        if speedup is not None:
            compared = speedup.comparison
            interval = compared.describe_interval() + (", within noise" if compared.within_noise else "")
            rows.append([f"{compared.ratio:.2f} times as fast as {what}, {speedup.against}", interval])
    return rows
