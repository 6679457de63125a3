"""The seven parts as rows and lines: each is named, with its numbers, or with why it has none."""

from __future__ import annotations

from pennyweight.budget import Limit, LimitVerdict, Outcome, Verdict
from pennyweight.evidence import Part
from pennyweight.measurement import Quantity, collect
from pennyweight.report import parts

PARTS = {"added_nats": Part.WEIGHTS, "decode_added_nats": Part.DECODE, "tail_share": Part.TAILS}
QUALITY = collect(
    "engine",
    [
        Quantity("added_nats", 0.0066, "nats/token", "lower", interval=(0.0, 0.0133)),
        Quantity("decode_added_nats", 0.001, "nats/token", "lower"),
        Quantity("tail_share", 0.0, "1", "lower", interval=(0.0, 0.06)),
    ],
    {"parts": PARTS, "left_out": {"divergence": "the endpoint gives no likeliest tokens"}},
)
VERDICT = Verdict(
    (
        LimitVerdict(Limit("added_nats", 0.02), 0.0066, Outcome.ACCEPT, "added_nats is within"),
        LimitVerdict(Limit("tail_share", 0.05), 0.0, Outcome.INCONCLUSIVE, "tail_share is open"),
    )
)


def test_every_part_has_its_row_or_says_why_not() -> None:
    found = parts.rows(QUALITY, None, VERDICT)
    assert list(dict.fromkeys(row.part for row in found)) == [str(part) for part in Part]
    nats = next(row for row in found if row.part == str(Part.WEIGHTS))
    assert (nats.measured, nats.limit, nats.outcome) == ("+0.0066", "+0.0200", "ACCEPT") and nats.interval
    assert next(row for row in found if row.part == str(Part.DECODE)).limit == ""
    assert "no labels" in next(row for row in found if row.part == str(Part.TASKS)).what


def test_lines_name_the_part_its_numbers_and_what_is_not_proven() -> None:
    told = "\n".join(parts.lines(QUALITY, None, VERDICT))
    assert "added nats per token: +0.0066 (interval +0.0000 to +0.0133), limit +0.0200: ACCEPT" in told
    assert (
        "Not proven: divergence from the baseline, because the endpoint gives" in told and "tail_share is open" in told
    )


def test_a_limit_that_nothing_measured_is_said() -> None:
    verdict = Verdict((LimitVerdict(Limit("degradation", 0.01), None, Outcome.INCONCLUSIVE, "no labels"),))
    assert parts.rows(QUALITY, None, verdict)[-1].measured == "not measured"
