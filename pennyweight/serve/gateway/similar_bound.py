"""From which score on similar answers are served: earned by labelled would-be hits, watched while it is served, and
earned again as the cache grows.

An epoch begins with no labels. At its looks (twice as many labels each time) the loosest threshold that holds is taken;
until the first look of a later epoch the one before it stays. An epoch that has looked ends when the cache has grown to
twice its size; each ends when the e-process raises its alarm, and then nothing is served until the next look.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter as Counted
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from pennyweight.mixing.monitor import Monitor
from pennyweight.serve.gateway.similar_store import Label, SimilarStore
from pennyweight.service import SimilarPolicy
from pennyweight.similarity.bound import THRESHOLDS, Judged, Threshold, error_of_look, labels_at_look, threshold_for

LOG = logging.getLogger("pennyweight.gateway")
FLOOR = THRESHOLDS[-1]  # the score of a would-be hit
SYNC_SECONDS = 1.0
# Would-be hits of a partition, before one is served: its cache begins empty, and other questions are near.
FIRST_JUDGED = 20
LONGEST_JUDGED = 120.0  # seconds, after which a label that did not come, as over a restart, counts as wrong
GROWTH, LEAST_GROWN = 2.0, 200  # of the cache, from one epoch to the next


def certified(state: Mapping[str, Any], threshold: Threshold, entries: int, policy: SimilarPolicy) -> dict[str, Any]:
    """The state of a store with a threshold that was certified elsewhere, as by `pw optimize` on a held-out half: that
    was the first look, and the labels of an epoch that begins now earn the next."""
    return {
        **state,
        "threshold": asdict(threshold),
        "epoch": int(state["epoch"]) + 1,
        "looks": 1,
        "looks_before": 1,
        "begun_with": entries,
        "alarms": 0,
        "monitor": vars(Monitor(policy.limit, 1 - policy.confidence, least=0.0)),
    }


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
    """`service` is what answers: for another one all is earned anew. Looks are numbered over all epochs, so that the
    error of all of them together is one."""

    def __init__(self, policy: SimilarPolicy, store: SimilarStore, figures: SimilarFigures, service: str = "") -> None:
        self.policy, self._store, self._figures = policy, store, figures
        self._about = f"{policy.limit} {policy.confidence} {service}"
        self.threshold: Threshold | None = None
        self.epoch, self.looks, self.looks_before, self.begun_with, self.alarms = 0, 0, 0, 0, 0
        self._monitor = self._new_monitor()
        self._labels: dict[str, Label] = {}  # of the epoch, in the order in which judging began
        self._judged = Counted(store.judged())  # labels of each partition
        self.first_judged = min(FIRST_JUDGED, labels_at_look(1, policy.limit, error_of_look(1, self.error)))
        self._synced = 0.0
        state = store.state()
        self._restore(state, first=True)
        if not state:
            self._keep()
        self._show()

    @property
    def error(self) -> float:
        return 1 - self.policy.confidence

    def serve(self, service: str) -> None:
        """Another service answers from now on."""
        about = f"{self.policy.limit} {self.policy.confidence} {service}"
        if about != self._about:
            self._about, self.threshold = about, None
            self._next_epoch(self._store.count())
            self._keep()

    def serves(self, score: float, partition: str) -> bool:
        self._sync()
        return not self.learns(partition) and self.threshold is not None and score >= self.threshold.score

    def learns(self, partition: str) -> bool:
        """Is every would-be hit judged, because nothing is served there?"""
        return self.policy.shadow or self.threshold is None or self._judged[partition] < self.first_judged

    def begin(
        self, partition: str, score: float, *, words: str = "", answer: str = "", features: tuple[float, ...] = ()
    ) -> Label:
        """Judging of a would-be hit begins. A look waits for those that began before it, so that labels that take long,
        which are the likely wrong ones, are not missing there; nor are they over a restart."""
        label = Label(uuid.uuid4().hex, self.epoch, time.time(), score, partition, words, answer, features)
        self._labels[label.id] = label
        self._judged[partition] += 1
        self._store.put_label(label)
        return label

    def take(self, label: Label, wrong: bool) -> None:
        """The would-be hit is judged."""
        self._figures.labels.labels("wrong" if wrong else "right").inc()
        label = replace(label, wrong=wrong)
        self._store.put_label(label)
        if label.epoch != self.epoch:
            return
        self._labels[label.id] = label
        if self.threshold is not None and label.score >= self.threshold.score and self._monitor.take(float(wrong)):
            self._alarm()
            return
        if len(self._labels) >= self.needed and len(self._known()) >= self.needed:
            self._read_labels()  # of other gateways
            self._judge(self._known())
        self._keep()

    def grown(self, entries: int) -> None:
        """The cache has this many entries: what held for half as many is earned again, once it was earned at all."""
        looked = self.looks > self.looks_before
        if looked and entries >= max(LEAST_GROWN, GROWTH * self.begun_with):
            self._next_epoch(entries)
            self._keep()

    @property
    def needed(self) -> int:
        """Labels that the next look waits for."""
        return labels_at_look(
            self.looks - self.looks_before + 1, self.policy.limit, error_of_look(self.looks + 1, self.error)
        )

    def state(self) -> dict[str, Any]:
        """For `/status` and the page."""
        found, known = self.threshold, self._known()
        return {
            "limit": self.policy.limit,
            "shadow": self.policy.shadow,
            "serving": found is not None and not self.policy.shadow,
            "threshold": found.score if found else None,
            "bound": found.bound if found else None,
            "labels": len(known),
            "labels_wrong": sum(label.wrong for label in known),
            "labels_needed": self.needed,
            "unjudged": sum(label.wrong is None for label in self._labels.values()),
            "watched": self._monitor.seen,
            "wrong_lately": self._monitor.mean_loss if self._monitor.seen else None,
            "alarms": self.alarms,
            "entries": self._store.count(),
        }

    # -- decisions --

    def _known(self) -> list[Judged]:
        """Labels up to the first that is not known yet."""
        found, late = list[Judged](), time.time() - LONGEST_JUDGED
        for label in self._labels.values():
            if label.wrong is None and label.begun > late:
                break
            found.append(Judged(label.score, label.wrong is not False, label.words, label.answer))
        return found

    def _read_labels(self) -> None:
        own = {id: label for id, label in self._labels.items() if label.epoch == self.epoch}
        found = {label.id: label for label in self._store.labels(self.epoch)}
        self._labels = {**found, **{id: one for id, one in own.items() if one.wrong is not None or id not in found}}

    def _judge(self, labels: list[Judged]) -> None:
        error = error_of_look(self.looks + 1, self.error)
        self.threshold = threshold_for(labels, self.policy.limit, error=error)
        self.looks += 1
        self._monitor = self._new_monitor()

    def _alarm(self) -> None:
        LOG.warning(
            "similar answers: %.1f%% of %d hits that were judged are wrong, %.1f%% allowed: none is served until it is "
            "earned again",
            100 * self._monitor.mean_loss,
            self._monitor.seen,
            100 * self.policy.limit,
        )
        self.alarms += 1
        self.threshold = None
        self._next_epoch(self._store.count())
        self._keep()

    def _next_epoch(self, entries: int) -> None:
        self.epoch, self.looks_before, self.begun_with, self._labels = self.epoch + 1, self.looks, entries, {}
        self._monitor = self._new_monitor()

    def _new_monitor(self) -> Monitor:
        return Monitor(self.policy.limit, self.error, least=0.0)

    # -- over restarts, and with other gateways on the store --

    def _sync(self) -> None:
        """Another gateway's alarm or look counts here, too."""
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._synced = time.monotonic()
            self._restore(self._store.state())

    def _keep(self) -> None:
        """Unless another gateway is in a later epoch."""
        if int(self._store.state().get("epoch", -1)) > self.epoch:
            self._restore(self._store.state())
        else:
            self._store.set_state(
                {
                    "about": self._about,
                    "threshold": asdict(self.threshold) if self.threshold else None,
                    "epoch": self.epoch,
                    "looks": self.looks,
                    "looks_before": self.looks_before,
                    "begun_with": self.begun_with,
                    "alarms": self.alarms,
                    "monitor": vars(self._monitor),
                }
            )
        self._show()

    def _restore(self, state: Mapping[str, Any], *, first: bool = False) -> None:
        """What is later than this gateway's own; at first also what is equal."""
        try:
            epoch, looks = int(state.get("epoch", -1)), int(state.get("looks", 0))
            if state.get("about") != self._about:
                if first:  # what was earned for 5%, or for another model, says nothing here
                    told = LOG.warning if state else LOG.debug
                    told(
                        "similar answers begin anew: what this cache earned was for another limit, model, embedding, "
                        "gate, --cache-similar-verify or --cache-similar-never"
                    )
                    self.epoch, self.looks, self.looks_before = epoch + 1, looks, looks
                return
            if not first and (epoch, looks) <= (self.epoch, self.looks):
                return
            threshold = Threshold(**state["threshold"]) if state["threshold"] else None
            monitor = Monitor(**state["monitor"])
            before, begun, alarms = int(state["looks_before"]), int(state["begun_with"]), int(state["alarms"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            LOG.warning("the state of similar answers is damaged (%s): it begins anew", error)
            self.epoch += 1
            return
        self.threshold, self._monitor = threshold, monitor
        self.epoch, self.looks, self.looks_before, self.begun_with, self.alarms = epoch, looks, before, begun, alarms
        self._read_labels()

    def _show(self) -> None:
        self._figures.threshold.set(2.0 if self.threshold is None else self.threshold.score)
        self._figures.bound.set(1.0 if self.threshold is None else self.threshold.bound)
        self._figures.alarm.set(self.alarms)
