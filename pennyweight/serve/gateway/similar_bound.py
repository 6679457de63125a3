"""From which score on similar answers are served: earned by labelled would-be hits, watched while it is served, and
earned again as the cache grows.

An epoch begins with no labels. At its looks (twice as many labels each time) the loosest threshold that holds is taken;
until the first look of a later epoch the one before it stays. An epoch ends when the cache has grown to twice its size,
or when the e-process raises its alarm: then nothing is served until the next look.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from pennyweight.mixing.monitor import Monitor
from pennyweight.serve.gateway.similar_store import Label, SimilarStore
from pennyweight.service import SimilarPolicy
from pennyweight.similarity.bound import THRESHOLDS, Threshold, error_of_look, labels_at_look, threshold_for

LOG = logging.getLogger("pennyweight.gateway")
FLOOR = THRESHOLDS[-1]  # the score of a would-be hit
GROWTH, LEAST_GROWN = 2.0, 200  # of the cache, from one epoch to the next


class SimilarFigures:
    def __init__(self, registry: CollectorRegistry) -> None:
        make: dict[str, Any] = {"registry": registry}
        self.requests = Counter(
            "pennyweight:similar_requests", "Requests that may get a similar answer", ["result"], **make
        )
        self.labels = Counter("pennyweight:similar_labels", "Would-be hits that were judged", ["result"], **make)
        self.threshold = Gauge("pennyweight:similar_threshold", "Least score that is served; 2: none is", **make)
        self.bound = Gauge("pennyweight:similar_wrong_bound", "Upper bound on the share of wrong hits", **make)
        self.alarm = Gauge("pennyweight:similar_alarms", "Alarms of the monitor so far", **make)


class SimilarBound:
    def __init__(self, policy: SimilarPolicy, store: SimilarStore, figures: SimilarFigures) -> None:
        self.policy, self._store, self._figures = policy, store, figures
        self.threshold: Threshold | None = None
        self.epoch, self.look, self.begun_with, self.alarms = 0, 1, 0, 0
        self._monitor = self._new_monitor()
        self._restore(store.state())
        self._labels = store.labels(self.epoch)
        self._show()

    @property
    def error(self) -> float:
        return 1 - self.policy.confidence

    def serves(self, score: float) -> bool:
        return not self.policy.shadow and self.threshold is not None and score >= self.threshold.score

    @property
    def learning(self) -> bool:
        """Is every would-be hit judged, because nothing is served?"""
        return self.policy.shadow or self.threshold is None

    def take(self, score: float, wrong: bool) -> None:
        """One more label of a would-be hit."""
        self._figures.labels.labels("wrong" if wrong else "right").inc()
        label = Label(score, wrong, self.epoch)
        self._labels.append(label)
        self._store.add_label(label)
        if self.threshold is not None and score >= self.threshold.score and self._monitor.take(float(wrong)):
            self._alarm()
            return
        if len(self._labels) >= labels_at_look(self.look, self.policy.limit, self.error):
            self._judge(self._labels)
        self._keep()

    def grown(self, entries: int) -> None:
        """The cache has this many entries: what held for half as many is earned again."""
        if entries >= max(LEAST_GROWN, GROWTH * self.begun_with):
            self._next_epoch(entries)
            self._keep()

    def state(self) -> dict[str, Any]:
        """For `/status` and the page."""
        found = self.threshold
        return {
            "limit": self.policy.limit,
            "shadow": self.policy.shadow,
            "serving": found is not None and not self.policy.shadow,
            "threshold": found.score if found else None,
            "bound": found.bound if found else None,
            "labels": len(self._labels),
            "labels_needed": labels_at_look(self.look, self.policy.limit, self.error),
            "watched": self._monitor.seen,
            "wrong_lately": self._monitor.mean_loss if self._monitor.seen else None,
            "alarms": self.alarms,
            "entries": self._store.count(),
        }

    # -- decisions --

    def _judge(self, labels: list[Label]) -> None:
        error = error_of_look(self.look, self.error)
        scores, wrong = [one.score for one in labels], [one.wrong for one in labels]
        self.threshold = threshold_for(scores, wrong, self.policy.limit, error=error)
        self.look += 1
        self._monitor = self._new_monitor()

    def _alarm(self) -> None:
        LOG.warning(
            "similar answers: %.1f%% of %d hits that were judged are wrong, %.1f%% allowed: none is served until %d "
            "more would-be hits are judged",
            100 * self._monitor.mean_loss,
            self._monitor.seen,
            100 * self.policy.limit,
            labels_at_look(1, self.policy.limit, self.error),
        )
        self.alarms += 1
        self.threshold = None
        self._next_epoch(self._store.count())
        self._keep()

    def _next_epoch(self, entries: int) -> None:
        self.epoch, self.look, self.begun_with, self._labels = self.epoch + 1, 1, entries, []

    def _new_monitor(self) -> Monitor:
        return Monitor(self.policy.limit, self.error)

    # -- over restarts --

    def _keep(self) -> None:
        self._store.set_state(
            {
                "limit": self.policy.limit,
                "confidence": self.policy.confidence,
                "threshold": asdict(self.threshold) if self.threshold else None,
                "epoch": self.epoch,
                "look": self.look,
                "begun_with": self.begun_with,
                "alarms": self.alarms,
                "monitor": vars(self._monitor),
            }
        )
        self._show()

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Another limit begins anew: what was earned for 5% says nothing of 1%."""
        same = state.get("limit") == self.policy.limit and state.get("confidence") == self.policy.confidence
        if not same:
            self.epoch = int(state.get("epoch", -1)) + 1
            return
        self.threshold = Threshold(**state["threshold"]) if state["threshold"] else None
        self.epoch, self.look = state["epoch"], state["look"]
        self.begun_with, self.alarms = state["begun_with"], state["alarms"]
        self._monitor = Monitor(**state["monitor"])

    def _show(self) -> None:
        self._figures.threshold.set(2.0 if self.threshold is None else self.threshold.score)
        self._figures.bound.set(1.0 if self.threshold is None else self.threshold.bound)
        self._figures.alarm.set(self.alarms)
