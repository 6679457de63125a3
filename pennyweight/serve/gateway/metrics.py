"""Prometheus figures of a gateway, named as vLLM names its own, under our prefix; and what the page shows of them."""

from __future__ import annotations

import time
from collections import Counter as Counted
from collections import deque
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pennyweight.serve.gateway.ask import Outcome
from pennyweight.worker.metrics import LATENCY_BUCKETS

WINDOW = 60.0  # seconds that the page looks back
MAX_LATELY = 10_000
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
MIN_FOR_P99 = 100  # below it the highest value is shown, and called so


@dataclass(frozen=True)
class _Ended:
    when: float
    first: float  # seconds from arrival to the first token
    whole: float
    tokens: int


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.running = Gauge("pennyweight:num_requests_running", "Requests at the engines", **make)
        self.waiting = Gauge("pennyweight:num_requests_waiting", "Requests in the queue", **make)
        self.replicas = Gauge("pennyweight:replicas_ready", "Engine processes that are ready", **make)
        self.restarts = Gauge("pennyweight:replica_restarts", "Engine processes started again", **make)
        self.generation_tokens = Counter("pennyweight:generation_tokens", "Tokens answered", **make)
        self.prompt_tokens = Counter("pennyweight:prompt_tokens", "Tokens of answered prompts", **make)
        self.finished = Counter("pennyweight:request_success", "Finished requests", ["finished_reason"], **make)
        self.cache = Counter("pennyweight:response_cache", "Cacheable requests", ["result"], **make)
        self.first_token = Histogram(
            "pennyweight:time_to_first_token_seconds", "Arrival to first token", buckets=LATENCY_BUCKETS, **make
        )
        self.end_to_end = Histogram(
            "pennyweight:e2e_request_latency_seconds", "Arrival to last token", buckets=LATENCY_BUCKETS, **make
        )
        self._lately: deque[_Ended] = deque(maxlen=MAX_LATELY)
        self._by_tenant: dict[str, Counted[str]] = {}
        self._endings: Counted[str] = Counted()

    def ended(self, ending: str, tenant: str, arrived: float, outcome: Outcome) -> None:
        now = time.monotonic()
        self.finished.labels(outcome.finish if ending == "stop" and outcome.finish else ending).inc()
        self._endings[ending] += 1
        self.generation_tokens.inc(outcome.tokens)
        self.prompt_tokens.inc(max(0, (outcome.used or 0) - outcome.tokens))
        self._by_tenant.setdefault(tenant, Counted()).update(requests=1, tokens=outcome.tokens)
        if outcome.first:
            self.first_token.observe(outcome.first - arrived)
            self.end_to_end.observe(now - arrived)
            self._lately.append(_Ended(now, outcome.first - arrived, now - arrived, outcome.tokens))

    def cache_results(self) -> dict[str, int]:
        results = dict.fromkeys(("hit", "shared", "miss"), 0)
        for sample in next(iter(self.cache.collect())).samples:
            if sample.name.endswith("_total"):
                results[sample.labels["result"]] = int(sample.value)
        return results

    def refusals(self) -> dict[str, int]:
        return {name: self._endings[name] for name in ("shed", "error", "abort")}

    def tenants(self) -> list[dict[str, Any]]:
        return [{"name": name, **counted} for name, counted in sorted(self._by_tenant.items())]

    def lately(self) -> dict[str, Any]:
        """Of the answers that ended in the last minute: latency percentiles, and throughput from the first one's
        arrival to the last one's end, as `pw bench` counts it."""
        now = time.monotonic()
        rows = [row for row in self._lately if now - row.when <= WINDOW]
        first, whole = sorted(row.first for row in rows), sorted(row.whole for row in rows)
        seconds = max(row.when for row in rows) - min(row.when - row.whole for row in rows) if rows else 0.0
        share = 1 / seconds if seconds else 0.0
        return {
            "window_s": WINDOW,
            "requests": len(rows),
            "requests_per_s": round(len(rows) * share, 2),
            "tokens_per_s": round(sum(row.tokens for row in rows) * share, 1),
            "ttft_ms": _quantiles(first),
            "e2e_ms": _quantiles(whole),
        }

    def exposition(self, *, running: int, waiting: int, replicas: int, restarts: int) -> bytes:
        """The figures in Prometheus' text format."""
        self.running.set(running)
        self.waiting.set(waiting)
        self.replicas.set(replicas)
        self.restarts.set(restarts)
        return generate_latest(self.registry)


def _quantiles(ordered: list[float]) -> dict[str, float]:
    """In milliseconds. A p99 of fewer than a hundred values would be their maximum under another name."""
    if not ordered:
        return {}
    found = {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
        for name, share in QUANTILES.items()
        if share < 0.99 or len(ordered) >= MIN_FOR_P99
    }
    return {name: round(1000 * value, 1) for name, value in {**found, "max": ordered[-1]}.items()}
