"""The seven parts of a proof in their order, each with its numbers, intervals and limits: as rows for the report's page
and as lines for a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from pennyweight.budget import Outcome, Verdict
from pennyweight.evidence import Part
from pennyweight.measurement import Measurement
from pennyweight.report import phrasing

FIRST_COLUMN = 18  # characters


@dataclass(frozen=True)
class PartRow:
    """One number of one part; empty texts where there is none. `part` is empty for a limit that nothing measured."""

    part: str
    what: str
    measured: str = ""
    interval: str = ""
    limit: str = ""
    outcome: str = ""

    def line(self) -> str:
        limit = f", limit {self.limit}" if self.limit else ""
        interval = f" ({self.interval})" if self.interval else ""
        numbers = f": {self.measured}{interval}{limit}" if self.measured else ""
        outcome = f": {self.outcome}" if self.outcome else ""
        return f"  {self.part:<{FIRST_COLUMN}} {self.what}{numbers}{outcome}"


def rows(quality: Measurement | None, speed: Measurement | None, verdict: Verdict) -> list[PartRow]:
    """A part that had nothing to judge says so."""
    parts = quality.conditions.get("parts", {}) if quality else {}
    verdicts = {row.limit.quantity: row for row in verdict.limits}
    measured = {**(quality.quantities if quality else {}), **(speed.quantities if speed else {})}
    found = []
    for part in Part:
        mine = [name for name in measured if parts.get(name) == part and (name in verdicts or name in phrasing.SHOWN)]
        if part is Part.SPEED:
            mine = [name for name in verdicts if name not in parts and name in measured]
        for name in mine:
            judged = verdicts.get(name)
            found.append(
                PartRow(
                    str(part),
                    phrasing.name_of(name),
                    phrasing.with_unit(name, measured[name].value),
                    phrasing.interval(measured[name]) if measured[name].interval else "",
                    phrasing.with_unit(name, judged.limit.bound) if judged else "",
                    str(judged.outcome) if judged else "",
                )
            )
        if not mine:
            found.append(PartRow(str(part), phrasing.NOTHING_TO_JUDGE[part]))
    missing = [row for name, row in verdicts.items() if name not in measured]
    return found + [
        PartRow("", phrasing.name_of(r.limit.quantity), "not measured", outcome=str(r.outcome)) for r in missing
    ]


def remarks(quality: Measurement | None, verdict: Verdict) -> list[str]:
    """What is not proven and why, and the limits that are not held."""
    left_out = quality.conditions.get("left_out", {}) if quality else {}
    said = [f"Not proven: {phrasing.name_of(name)}, because {why}." for name, why in left_out.items()]
    return said + [row.reason for row in verdict.limits if row.outcome is not Outcome.ACCEPT]


def lines(quality: Measurement | None, speed: Measurement | None, verdict: Verdict) -> list[str]:
    """For a terminal."""
    told = [row.line() for row in rows(quality, speed, verdict)]
    return told + [f"  {sentence}" for sentence in remarks(quality, verdict)]
