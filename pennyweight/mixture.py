"""Mixture: two members of a service that answer for one name. A rule decides for each request which of them does, and a
certificate says what that loses at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pennyweight.errors import UsageError

Form = Literal["net", "kept"]


@dataclass(frozen=True)
class Limit:
    """What may be lost.

    net   of the large model's score over all requests, at most this share; what only the small one gets right counts
          against the loss
    kept  of the sessions that the small model keeps a part of, at most this share has an answer that is wrong where the
          large model's is right
    """

    share: float
    form: Form = "net"


@dataclass(frozen=True)
class ThresholdResult:
    """One threshold on the held-out half: the share of requests kept, what was lost in the limit's own form, an upper
    bound on it, and whether that is within the limit."""

    threshold: float
    kept: float
    lost: float
    bound: float
    holds: bool


@dataclass(frozen=True)
class Certificate:
    """`tested` is the whole sequence, up to the first failure. Nothing holds: every request goes to the large model.
    `scores` says what an answer was judged by: the requests' own labels, or agreement with the large model."""

    limit: Limit
    error: float
    requests: int
    tested: tuple[ThresholdResult, ...]
    scores: str = "labels"

    @property
    def chosen(self) -> ThresholdResult | None:
        """The loosest threshold that holds."""
        return next((one for one in reversed(self.tested) if one.holds), None)


@dataclass(frozen=True)
class LossRegression:
    """How much a request would lose with the small model, foreseen from numbers about it (mixing/regression.py).
    `means`, `scales` and `weights` have a number for each feature. `knots` maps a score to the loss that was seen at
    it: (score, loss), rising."""

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    knots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Rule:
    """A request is kept by the small member where its score is at most `threshold`.

    router   scores the question, by its `embedding` and shape, before anything is generated
    cascade  scores the small member's own answer, or its first `first_tokens` tokens; the others wait for that

    With both, a question that the router scores above `ask_up_to` is not asked of the small member."""

    threshold: float
    router: LossRegression | None = None
    cascade: LossRegression | None = None
    ask_up_to: float | None = None
    first_tokens: int = 0
    embedding: str = ""

    def __post_init__(self) -> None:
        if self.router is None and self.cascade is None:
            raise UsageError("A mixture's rule has neither a router nor a cascade: use one member alone.")
        if (self.ask_up_to is not None) != (self.router is not None and self.cascade is not None):
            raise UsageError("A rule has `ask_up_to` where it has both a router and a cascade, and only there.")

    @property
    def name(self) -> str:
        parts = ("router" if self.router else "", "cascade" if self.cascade else "")
        return " and ".join(filter(None, parts))


@dataclass(frozen=True)
class Mixture:
    """`small` and `large` are members of the service; `pair` are the ids of the deployments that the rule was fitted
    and certified on. Of the requests kept, `audited` is the share that is also asked of the large member; their answers
    may differ in `departures` of them, which was the bound when it was certified, as `compared` tells
    (mixing/agreement.py). `monitor_error` is the probability of an alarm although that still holds."""

    small: str
    large: str
    pair: tuple[str, str]
    rule: Rule
    certificate: Certificate
    departures: float = 1.0
    compared: str = "text"
    audited: float = 0.02
    monitor_error: float = 0.05

    def __post_init__(self) -> None:
        if self.small == self.large:
            raise UsageError(f"A mixture of {self.small} with itself decides nothing: name two members.")
        if not 0 <= self.audited <= 1:
            raise UsageError(f"A mixture's `audited` is {self.audited:g}: use a share from 0 to 1.")
        chosen = self.certificate.chosen
        if chosen is None or chosen.threshold != self.rule.threshold:
            raise UsageError(
                "The mixture's threshold is not the one that its certificate allows: restore the file, or certify "
                "again with `pw calibrate`."
            )
