"""What a simulation found: per request, and as a `Measurement` with the names that `pw bench` uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pennyweight.errors import UsageError
from pennyweight.measurement import MIN_FOR_P99, PERCENTILES, Better, Measurement, Quantity, collect
from pennyweight.simulate.request_table import Floats, Integers, RequestTable

SLO_NAMES = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, eq=False)
class SimulatedRun:
    """One value per request in every array; times in seconds. A request that no replica's KV blocks can hold is
    rejected: its times are NaN, its replica is -1.

    `admitted` is when its replica's first step with it began, and `cached_tokens` what the prefix cache of that replica
    had of its prompt. `seconds` is when the last request was answered, `replica_seconds` the time that replicas were
    paid for until then, their start included.
    """

    requests: RequestTable
    arrival: Floats
    admitted: Floats
    first_token: Floats
    last_token: Floats
    replica: Integers
    preemptions: Integers
    cached_tokens: Integers
    replica_seconds: float
    seconds: float
    conditions: Mapping[str, Any]

    @property
    def rejected(self) -> Any:
        """True where no replica can hold the request."""
        return self.replica < 0

    @property
    def ttft(self) -> Floats:
        """Seconds from arrival to first token."""
        return self.first_token - self.arrival

    @property
    def e2e(self) -> Floats:
        return self.last_token - self.arrival

    @property
    def tpot(self) -> Floats:
        """(end-to-end - TTFT) / (output tokens - 1); NaN for a single token."""
        later = (self.requests.output_tokens - 1).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(later > 0, (self.last_token - self.first_token) / later, np.nan)

    def meets(self, goodput: Mapping[str, float]) -> Any:
        """True where a request holds these milliseconds by SLO name: ttft, tpot, e2el."""
        times = {"ttft": self.ttft, "tpot": np.nan_to_num(self.tpot), "e2el": self.e2e}
        good = ~self.rejected
        for name, bound in goodput.items():
            if name not in SLO_NAMES:
                raise UsageError(f"A goodput knows no {name!r}: use {', '.join(SLO_NAMES)} with milliseconds.")
            with np.errstate(invalid="ignore"):
                good &= 1000 * times[name] <= bound
        return good

    def measurement(
        self,
        subject: str = "simulation",
        *,
        goodput: Mapping[str, float] | None = None,
        price_per_hour: float | None = None,
    ) -> Measurement:
        """All quantities as predicted ones. `price_per_hour` is of one replica."""
        served = ~self.rejected
        quantities = [
            *_latencies({"ttft": self.ttft[served], "tpot": self.tpot[served], "e2e": self.e2e[served]}),
            *self._throughputs(served),
            *(self._goodput(goodput) if goodput else []),
        ]
        if price_per_hour is not None:
            dollars = price_per_hour * self.replica_seconds / 3600
            tokens = int(self.requests.output_tokens[served].sum())
            quantities.append(_predicted("dollars_per_million_tokens", 1e6 * dollars / tokens, "$", "lower"))
        return collect(subject, quantities, self.conditions)

    def _throughputs(self, served: Any) -> list[Quantity]:
        seconds = self._span(served)
        output, prompt = (
            int(values[served].sum()) for values in (self.requests.output_tokens, self.requests.prompt_tokens)
        )
        return [
            _predicted("duration_s", seconds, "s", "lower"),
            _predicted("output_tokens", output, "tokens", "higher"),
            _predicted("request_throughput", int(served.sum()) / seconds, "requests/s", "higher"),
            _predicted("output_throughput", output / seconds, "tokens/s", "higher"),
            _predicted("total_throughput", (output + prompt) / seconds, "tokens/s", "higher"),
            _predicted("failed_requests", int(self.rejected.sum()), "requests", "lower"),
            _predicted("preemptions", int(self.preemptions.sum()), "preemptions", "lower"),
            _predicted("cached_prompt_share", float(self.cached_tokens[served].sum()) / prompt, "1", "higher"),
            _predicted("replica_seconds", self.replica_seconds, "s", "lower"),
        ]

    def _goodput(self, goodput: Mapping[str, float]) -> list[Quantity]:
        good = int(self.meets(goodput).sum())
        return [
            _predicted("goodput", good / self._span(~self.rejected), "requests/s", "higher"),
            _predicted("goodput_share", good / len(self.requests), "1", "higher"),
        ]

    def _span(self, served: Any) -> float:
        """From the first arrival to the last answer, as a benchmark's clock runs."""
        return float(self.last_token[served].max() - self.arrival[served].min())


def _latencies(series: Mapping[str, Floats]) -> list[Quantity]:
    found = []
    for name, values in series.items():
        values = 1000 * values[~np.isnan(values)]
        if not len(values):
            continue  # single-token answers have no TPOT
        found.append(_predicted(f"{name}_mean_ms", float(values.mean()), "ms", "lower"))
        for percent in PERCENTILES:
            if percent < 99 or len(values) >= MIN_FOR_P99:
                found.append(_predicted(f"{name}_p{percent}_ms", float(np.percentile(values, percent)), "ms", "lower"))
        found.append(_predicted(f"{name}_max_ms", float(values.max()), "ms", "lower"))
    return found


def _predicted(name: str, value: float, unit: str, better: Better) -> Quantity:
    return Quantity(name, value, unit, better, predicted=True)
