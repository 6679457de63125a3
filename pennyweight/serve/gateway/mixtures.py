"""The mixtures of the service that is running: what each has decided, what its audits say, and which conversations have
escalated."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter as Counted
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge

from pennyweight.embedding import SentenceEmbedding
from pennyweight.mixing.cascade import SmallAnswer, cascade_features
from pennyweight.mixing.kinds import cluster_scores, kind_scores, request_kind
from pennyweight.mixing.monitor import Monitor
from pennyweight.mixing.regression import loss_scores
from pennyweight.mixing.router import question_text, router_features
from pennyweight.mixture import Mixture
from pennyweight.service import Service

LOG = logging.getLogger("pennyweight.gateway")
REMEMBERED = 100_000  # conversations
Embed = Callable[[Sequence[str]], NDArray[np.float64]]


class MixtureFigures:
    """Their Prometheus figures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        make: dict[str, Any] = {"registry": registry}
        self.requests = Counter(
            "pennyweight:mixture_requests", "Requests to a mixture", ["mixture", "member", "reason"], **make
        )
        self.wasted = Counter(
            "pennyweight:mixture_wasted_tokens", "Tokens of the small member that nobody got", ["mixture"], **make
        )
        self.audits = Counter("pennyweight:mixture_audits", "Kept answers asked again", ["mixture", "result"], **make)
        self.departures = Gauge(
            "pennyweight:mixture_departures",
            "Share of audited answers that differ from the large's",
            ["mixture"],
            **make,
        )
        self.alarm = Gauge("pennyweight:mixture_alarm", "1: everything goes to the large member", ["mixture"], **make)


@dataclass
class Mixed:
    """One mixture while it is served. `file` keeps its monitor over restarts."""

    name: str
    mixture: Mixture
    figures: MixtureFigures
    embed: Embed | None = None
    file: Path | None = None
    decided: Counted[tuple[str, str]] = field(default_factory=Counted)
    ruled: Counted[bool] = field(default_factory=Counted)  # by whether the rule keeps it, or would in shadow
    wasted: int = 0
    escalated: OrderedDict[str, None] = field(default_factory=OrderedDict)
    auditing: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.monitor = Monitor(self.mixture.departures, self.mixture.monitor_error, least=0.0)
        if self.file is not None and self.file.exists():
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            if kept.pop("pair", None) == list(self.mixture.pair) and kept.get("limit") == self.monitor.limit:
                self.monitor = Monitor(**kept)
        self._threads = ThreadPoolExecutor(1, "router") if self.embed is not None else None
        self.small_identity = ""
        self._rule = hashlib.sha256(repr(self.mixture.rule).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """Of what is decided by, for the cache's keys: after an alarm, a kept answer is not found again."""
        return f"{self.small_identity} {self._rule} {self.monitor.alarmed}"

    def has_escalated(self, conversations: Sequence[str]) -> bool:
        return any(one in self.escalated for one in conversations)

    def begin(self, before: Mixed | None, small_identity: str) -> None:
        """It is served from now on, in the place of another."""
        self.small_identity = small_identity
        if before is not None and before is not self:
            self.escalated, before.file = before.escalated, None
        self.show()

    # -- scores --

    async def question_score(self, body: Mapping[str, Any]) -> float:
        """Of a request, before anything is generated. The embedding is computed beside the event loop."""
        rule = self.mixture.rule
        if rule.kinds is not None:
            return float(kind_scores(rule.kinds, [request_kind(body)])[0])
        assert self.embed is not None and self._threads is not None
        prompt = body.get("prompt")
        text = question_text(body.get("messages"), prompt if isinstance(prompt, str) else "")
        embeddings = await asyncio.get_running_loop().run_in_executor(self._threads, self.embed, [text])
        if rule.clusters is not None:
            return float(cluster_scores(rule.clusters, embeddings)[0])
        assert rule.router is not None
        return float(loss_scores(rule.router, router_features(embeddings, [text]))[0])

    def cascade_score(self, answer: SmallAnswer) -> float:
        rule = self.mixture.rule
        assert rule.cascade is not None
        return float(loss_scores(rule.cascade, cascade_features([answer], rule.first_tokens))[0])

    # -- what happens --

    def count(self, member: str, reason: str) -> None:
        self.decided[member, reason] += 1
        self.figures.requests.labels(self.name, member, reason).inc()

    def waste(self, tokens: int) -> None:
        self.wasted += tokens
        self.figures.wasted.labels(self.name).inc(tokens)

    def escalate(self, conversation: str) -> None:
        """It stays with the large member."""
        if conversation:
            self.escalated[conversation] = None
            self.escalated.move_to_end(conversation)
            while len(self.escalated) > REMEMBERED:
                self.escalated.popitem(last=False)

    def audited(self, differs: bool) -> None:
        """One kept answer was compared with the large member's."""
        alarmed_before = self.monitor.alarmed
        self.figures.audits.labels(self.name, "differs" if differs else "agrees").inc()
        if self.monitor.take(float(differs)) and not alarmed_before:
            LOG.warning(
                "the mixture %s: %.1f%% of %d audited answers differ from %s's, and at most %.1f%% did when it was "
                "certified: everything goes to %s from now on; certify it again with `pw calibrate`",
                self.name,
                100 * self.monitor.mean_loss,
                self.monitor.seen,
                self.mixture.large,
                100 * self.mixture.departures,
                self.mixture.large,
            )
        if self.file is not None:
            self._keep(self.file)
        self.show()

    def _keep(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        passing = file.with_suffix(".new")
        passing.write_text(json.dumps({**vars(self.monitor), "pair": self.mixture.pair}), encoding="utf-8")
        passing.replace(file)

    def show(self) -> None:
        self.figures.alarm.labels(self.name).set(self.monitor.alarmed)
        self.figures.departures.labels(self.name).set(self.monitor.mean_loss)

    def state(self) -> dict[str, Any]:
        """For `/status` and the page."""
        members = Counted[str]()
        for (member, _), count in self.decided.items():
            members[member] += count
        total, rule, certificate = sum(members.values()), self.mixture.rule, self.mixture.certificate
        chosen = certificate.chosen
        by_rule = self.ruled.total()
        return {
            "name": self.name,
            "policy": rule.name,
            "small": self.mixture.small,
            "large": self.mixture.large,
            "requests": total,
            "kept": members[self.mixture.small],
            "decided_by_rule": by_rule,
            "kept_share": self.ruled[True] / by_rule if by_rule else None,
            "certified_kept_share": chosen.kept if chosen else 0.0,
            "certified_loss": chosen.bound if chosen else 0.0,
            "reasons": [{"member": m, "reason": r, "requests": n} for (m, r), n in sorted(self.decided.items())],
            "wasted_tokens": self.wasted,
            "audited": self.monitor.seen,
            "departures": self.monitor.mean_loss if self.monitor.seen else None,
            "departures_limit": self.mixture.departures,
            "alarm": self.monitor.alarmed,
        }


class Mixtures:
    """By name. A reload replaces them."""

    def __init__(self, registry: CollectorRegistry, state: Path | None) -> None:
        self._figures = MixtureFigures(registry)
        self._state = state
        self._embeds: dict[str, Embed] = {}  # by directory
        self.by_name: dict[str, Mixed] = {}

    def made(self, service: Service) -> dict[str, Mixed]:
        """Those of this service. Raises `UsageError` where a router's embedding model is not installed."""
        return {name: self._mixed(name, mixture) for name, mixture in service.mixtures.items()}

    def serve(self, made: Mapping[str, Mixed], identity_of: Callable[[str], str]) -> None:
        """`identity_of` a member."""
        for name, mixed in made.items():
            mixed.begin(self.by_name.get(name), identity_of(mixed.mixture.small))
        self.by_name = dict(made)

    def _mixed(self, name: str, mixture: Mixture) -> Mixed:
        known = self.by_name.get(name)
        if known is not None and known.mixture == mixture:
            return known
        file = None if self._state is None else self._state / f"mixture-{name.replace('/', '_')}.json"
        return Mixed(name, mixture, self._figures, self._embedding(mixture), file)

    def _embedding(self, mixture: Mixture) -> Embed | None:
        if not mixture.rule.embeds:
            return None
        place = mixture.rule.embedding
        if place not in self._embeds:
            self._embeds[place] = SentenceEmbedding(Path(place) if place else None, num_threads=1)
        return self._embeds[place]

    def state(self) -> list[Mapping[str, Any]]:
        return [mixed.state() for mixed in self.by_name.values()]
