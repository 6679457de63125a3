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
class KindLosses:
    """What requests of each kind lost on average with the small model: (kind, loss). A kind is what a request says
    beside its question (mixing/kinds.py). A kind that is not here goes to the large model."""

    losses: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ClusterLosses:
    """The same for clusters of embeddings: `centres` (clusters, width), `losses` (clusters,)."""

    centres: tuple[tuple[float, ...], ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.centres) != len(self.losses) or len({len(centre) for centre in self.centres}) != 1:
            raise UsageError("A rule's clusters are damaged: each needs a centre of the same width, and a loss.")


@dataclass(frozen=True)
class Rule:
    """A request is kept by the small member where its score is at most `threshold`.

    kinds    scores a request by its kind, clusters by the nearest cluster of its question's `embedding`
    router   scores the question, by its `embedding` and shape, before anything is generated
    cascade  scores the small member's own answer, or its first `first_tokens` tokens; the others decide before

    One of them decides, or router and cascade: then a question that the router scores above `ask_up_to` is not asked of
    the small member."""

    threshold: float
    router: LossRegression | None = None
    cascade: LossRegression | None = None
    ask_up_to: float | None = None
    first_tokens: int = 0
    embedding: str = ""
    kinds: KindLosses | None = None
    clusters: ClusterLosses | None = None

    def __post_init__(self) -> None:
        parts = self.name.split(" and ")
        if parts == [""]:
            raise UsageError("A mixture's rule has nothing to decide by: use one member alone.")
        if len(parts) > 1 and parts != ["router", "cascade"]:
            raise UsageError(f"A mixture's rule decides by {self.name}: use one of them, or router and cascade.")
        if (self.ask_up_to is not None) != (self.router is not None and self.cascade is not None):
            raise UsageError("A rule has `ask_up_to` where it has both a router and a cascade, and only there.")

    @property
    def name(self) -> str:
        return " and ".join(filter(None, (self.before, "cascade" if self.cascade else "")))

    @property
    def before(self) -> str:
        """What decides before anything is generated, if anything does."""
        parts = {"kind": self.kinds, "cluster": self.clusters, "router": self.router}
        return " and ".join(name for name, part in parts.items() if part is not None)

    @property
    def embeds(self) -> bool:
        return self.router is not None or self.clusters is not None


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
