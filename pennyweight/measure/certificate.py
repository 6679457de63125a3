"""A threshold below which requests are kept with the small model, and a bound on what that loses, which holds with the
stated confidence.

The thresholds come from the tuning half and are tested on the held-out half, strictest first, until one fails (fixed
sequence testing: Maurer, Hothorn & Lehmacher 1995; Angelopoulos et al. 2021, "Learn then Test",
arxiv.org/abs/2110.01052), so that the whole sequence errs no more often than one test. A threshold that is chosen on
the data that also judge it breaks its bound in 35 to 50% of splits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pennyweight.measure.proof.intervals import ratio_upper_bounds, share_interval
from pennyweight.mixture import Certificate, Limit, ThresholdResult

Floats = NDArray[np.float64]
MOST_THRESHOLDS = 100
SEARCHED = 1 << 17  # requests: more are never asked for


@dataclass(frozen=True)
class Outcomes:
    """Both models' results on the same requests, with the policy's score of each: lower is safer to keep.

    scores, small, large  (requests,); `small` and `large` in 0..1
    sessions              (requests,) names: requests of one session are not independent, sessions are
    reference             (requests,) results of what nothing may be lost against; None: of `large` itself
    most                  what one request can lose: 1, more where the results are corrected by labels
    """

    scores: Floats
    small: Floats
    large: Floats
    sessions: Sequence[str] = ()
    reference: Floats | None = None
    most: float = 1.0

    def kept(self, threshold: float) -> NDArray[np.bool_]:
        """Those at the threshold are kept, too."""
        return np.asarray(self.scores <= threshold)

    def by_session(self, values: Floats) -> Floats:
        """(requests, …) values summed to (sessions, …)."""
        if not self.sessions:
            return values
        _, places = np.unique(np.asarray(self.sessions), return_inverse=True)
        summed = np.zeros((places.max() + 1, *values.shape[1:]))
        np.add.at(summed, places, values)
        return summed


def certify(outcomes: Outcomes, thresholds: Sequence[float], limit: Limit, *, error: float) -> Certificate:
    """Test thresholds that were fixed before these outcomes were seen. The probability that the chosen one loses more
    than the limit is at most `error`."""
    rows = each_tested(outcomes, sorted(thresholds), limit, error=error)
    failed = next((number for number, row in enumerate(rows) if not row.holds), len(rows))
    return Certificate(limit, error, len(outcomes.scores), tuple(rows[: failed + 1]))


def each_tested(
    outcomes: Outcomes, thresholds: Sequence[float], limit: Limit, *, error: float
) -> list[ThresholdResult]:
    """Each threshold alone."""
    if not thresholds or not len(outcomes.scores):
        return []
    kept = np.column_stack([outcomes.kept(threshold) for threshold in thresholds])  # (requests, thresholds)
    lost, bounds = (_net if limit.form == "net" else _of_the_kept)(outcomes, kept, error)
    return [
        ThresholdResult(
            threshold, float(kept[:, n].mean()), float(lost[n]), float(bounds[n]), bool(bounds[n] <= limit.share)
        )
        for n, threshold in enumerate(thresholds)
    ]


def _net(outcomes: Outcomes, kept: NDArray[np.bool_], error: float) -> tuple[Floats, Floats]:
    """Σ (reference - what answers) / Σ reference, with its bound over sessions."""
    reference = outcomes.large if outcomes.reference is None else outcomes.reference
    answers = np.where(kept, outcomes.small[:, None], outcomes.large[:, None])
    differences = outcomes.by_session(reference[:, None] - answers)
    sizes = outcomes.by_session(reference)
    if sizes.sum() <= 1e-9:
        return np.zeros(kept.shape[1]), np.full(kept.shape[1], np.inf)
    most = float(outcomes.by_session(np.full(len(outcomes.large), outcomes.most)).max())  # of one session
    return differences.sum(0) / sizes.sum(), ratio_upper_bounds(differences, sizes, bound=most, error=error)


def _of_the_kept(outcomes: Outcomes, kept: NDArray[np.bool_], error: float) -> tuple[Floats, Floats]:
    """The share of sessions with a loss among those with something kept (Clopper & Pearson 1934)."""
    wrong = kept & (outcomes.large > outcomes.small)[:, None]
    losing, keeping = ((outcomes.by_session(which.astype(np.float64)) > 0).sum(0) for which in (wrong, kept))
    found = [share_interval(int(a), int(b), error) for a, b in zip(losing, keeping, strict=True)]
    return np.nan_to_num([share for share, _ in found]), np.array([high for _, (_, high) in found])


# -- before anything is spent --


def least_kept(limit: Limit, error: float, *, most: float = 1.0) -> int:
    """How many sessions must be kept in part, without one loss, before a limit can hold: of the kept form 299 for 1%,
    149 for 2% and 59 for 5% at 95% confidence. Of the net form, this many must be there in all; `most` is what one
    request can lose."""
    if limit.form == "kept":
        return math.ceil(math.log(error) / math.log1p(-limit.share))
    low, high = 1, SEARCHED
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _could_hold(middle, limit.share / most, error) else (middle + 1, high)
    return low


def _could_hold(sessions: int, share: float, error: float) -> bool:
    """With the large model always right and nothing lost, the bound is the largest share that one unseen worst case may
    weigh among all: P(Beta(1, n) > share) = (1 - share)^n."""
    return (1 - share / (1 + share)) ** sessions <= error


def thresholds_of(scores: Floats, *, least: float = 0.0) -> list[float]:
    """Thresholds to test, from the tuning half's scores: one for each of 100 steps of the share that is kept, from
    `least` on. Equal scores are kept together or not at all."""
    scores = scores[np.isfinite(scores)]  # what is never kept is no threshold
    if not len(scores):
        return []
    steps = np.linspace(least, 1.0, MOST_THRESHOLDS)
    return sorted({float(value) for value in np.quantile(scores, steps, method="lower")})
