"""Prometheus figures of a gateway, named as vLLM names its own, under our prefix; and what the page shows of them."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pennyweight.worker.metrics import LATENCY_BUCKETS

WINDOW = 60.0  # seconds that the page looks back
MOST_LATELY = 10_000


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.running = Gauge("pennyweight:num_requests_running", "Requests at the engines", **make)
        self.waiting = Gauge("pennyweight:num_requests_waiting", "Requests in the queue", **make)
        self.replicas = Gauge("pennyweight:replicas_ready", "Engine processes that can be asked", **make)
        self.restarts = Gauge("pennyweight:replica_restarts", "Engine processes started again", **make)
        self.generation_tokens = Counter("pennyweight:generation_tokens", "Tokens answered", **make)
        self.finished = Counter("pennyweight:request_success", "Finished requests", ["finished_reason"], **make)
        self.cache = Counter("pennyweight:response_cache", "Cacheable requests", ["result"], **make)
        self.first_token = Histogram(
            "pennyweight:time_to_first_token_seconds", "Arrival to first token", buckets=LATENCY_BUCKETS, **make
        )
        self.end_to_end = Histogram(
            "pennyweight:e2e_request_latency_seconds", "Arrival to last token", buckets=LATENCY_BUCKETS, **make
        )
        self._lately: deque[tuple[float, float, float, int]] = deque(maxlen=MOST_LATELY)

    def ended(self, reason: str, arrived: float, first: float, tokens: int) -> None:
        """One request; `first` is 0 where no token came."""
        now = time.monotonic()
        self.finished.labels(reason).inc()
        self.generation_tokens.inc(tokens)
        if first:
            self.first_token.observe(first - arrived)
            self.end_to_end.observe(now - arrived)
            self._lately.append((now, first - arrived, now - arrived, tokens))

    def lately(self) -> dict[str, Any]:
        """Throughput and latency percentiles of the last minute."""
        now = time.monotonic()
        rows = [row for row in self._lately if now - row[0] <= WINDOW]
        first, whole = sorted(row[1] for row in rows), sorted(row[2] for row in rows)
        return {
            "requests": len(rows),
            "requests_per_s": round(len(rows) / WINDOW, 2),
            "tokens_per_s": round(sum(row[3] for row in rows) / WINDOW, 1),
            "ttft_ms": {name: round(1000 * _quantile(first, q), 1) for name, q in QUANTILES.items()},
            "e2e_ms": {name: round(1000 * _quantile(whole, q), 1) for name, q in QUANTILES.items()},
        }


QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
