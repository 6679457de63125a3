"""Prometheus figures of one worker, named as vLLM names its own, under our prefix."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)


class Metrics:
    """Prometheus figures of one worker, named as vLLM names its own, under our prefix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.running = Gauge("pennyweight:num_requests_running", "Requests in the batch or waiting for it", **make)
        self.prompt_tokens = Counter("pennyweight:prompt_tokens", "Prompt tokens of accepted requests", **make)
        self.generation_tokens = Counter("pennyweight:generation_tokens", "Tokens generated", **make)
        self.steps = Counter("pennyweight:engine_steps", "Seconds in which the engine ended a step or a piece", **make)
        self.finished = Counter("pennyweight:request_success", "Finished requests", ["finished_reason"], **make)
        self.first_token = Histogram(
            "pennyweight:time_to_first_token_seconds", "Arrival to first token", buckets=LATENCY_BUCKETS, **make
        )
        self.end_to_end = Histogram(
            "pennyweight:e2e_request_latency_seconds", "Arrival to last token", buckets=LATENCY_BUCKETS, **make
        )
