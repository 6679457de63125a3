"""The simulator against theory, against real runs, and at scale.

    python -m benchmarks.simulate [--only queue runs scale policies scaling] [--requests N] [--replicas N]
                                [--seeds N] [--period S] [--rates R ...]

    queue     mean waiting times of M/M/c against Erlang's C formula
    runs      two real vLLM 0.19 runs: a step price fitted on the first half of the requests, the second half predicted
    scale     seconds and memory of one processor core for 10,000 replicas and a million requests
    policies  Mooncake's prompts at that size, by load: which router is better where
    scaling   autoscaling on a sine against an oracle that knows the load

Needs PENNYWEIGHT_DATA, and numba. Everything is seeded; only seconds and memory differ from run to run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pennyweight import traces
from pennyweight.simulate import Autoscaling, Pool, RequestTable, Router, SimulatedCluster, SimulatedRun, simulate
from pennyweight.simulate.arrivals import poisson, sine
from pennyweight.step_price import ReplicaLimits, StepPrice

# A made-up replica, of about one large GPU with a model of 8 billion parameters.
PRICE = StepPrice(step=0.008, sequence=4e-5, context_token=2e-8, prompt_token=6e-5, prompt_pair=2e-9)
LIMITS = ReplicaLimits(max_num_seqs=128, max_num_batched_tokens=2048, num_kv_blocks=10_000)
GOODPUT = {"ttft": 2000.0, "tpot": 50.0}


def data() -> Path:
    return Path(os.environ["PENNYWEIGHT_DATA"])


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


# -- M/M/c --


def erlang_c_wait(servers: int, load: float, mean_service: float) -> float:
    """Mean wait of M/M/c, its mean service time and `load` (of 1 each server) given."""
    offered = servers * load
    blocked = 1.0  # Erlang B, by its recursion
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    waits = blocked / (1 - load * (1 - blocked))
    return waits * mean_service / (servers * (1 - load))


def queue(count: int, seeds: int) -> None:
    """One request at a time at each replica, the others wait in the router. A prompt of n tokens takes n microseconds
    at a price of one microsecond a token, so that exponential lengths are exponential services."""
    rows = []
    mean = 20_000  # tokens
    for servers, load in ((1, 0.5), (1, 0.8), (4, 0.8), (16, 0.9), (100, 0.95)):
        found = []
        for seed in range(seeds):
            random = np.random.default_rng(1000 + seed)
            lengths = np.maximum(1, np.ceil(random.exponential(mean, count))).astype(np.int64)
            limits = ReplicaLimits(1, 2**30, 2**24, prefix_caching=False)
            cluster = SimulatedCluster(
                Pool(servers, StepPrice(0.0, 0.0, 1e-9, 1e-6), limits), max_requests_per_replica=1
            )
            rate = load * servers / (mean * 1e-6)
            table = RequestTable.of_lengths(poisson(count, rate, seed), lengths, np.ones(count, dtype=np.int64))
            run = simulate(cluster, table, router=Router.LEAST_OUTSTANDING)
            found.append(float((run.admitted - run.arrival).mean()))
        theory = erlang_c_wait(servers, load, mean * 1e-6)
        wait, error = float(np.mean(found)), float(np.std(found)) / math.sqrt(max(1, seeds - 1))
        difference = f"{100 * (wait / theory - 1):+.2f}% ± {100 * error / theory:.2f}%"
        rows.append((servers, load, 1000 * theory, 1000 * wait, difference))
    title = f"M/M/c: mean wait, {seeds} runs of {count:,} requests each (± one standard error)"
    print_table(title, ("servers", "load", "Erlang C, ms", "simulated, ms", "difference"), rows)


# -- real runs --


def real_run(folder: Path) -> tuple[RequestTable, np.ndarray, np.ndarray]:
    """Requests, and the times of their first and last tokens after the first arrival."""
    lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()]

    def column(name: str) -> np.ndarray:
        return np.array([line[name] for line in lines])

    begin = column("queued_ts")[0]  # the engine's clock, at the first arrival
    arrival = column("arrival_time") - column("arrival_time")[0]
    table = RequestTable.of_lengths(arrival, column("input_toks"), column("output_toks"), name=folder.name)
    return table, column("first_token_ts") - begin, column("last_token_ts") - begin


def run_limits(folder: Path) -> ReplicaLimits:
    """The run's settings. Its KV blocks were never scarce: so many that all requests fit."""
    settings = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["engine_kwargs"]
    return ReplicaLimits(settings["max_num_seqs"], settings["max_num_batched_tokens"], 30_000, prefix_caching=False)


def priced(exponents: np.ndarray) -> StepPrice:
    return StepPrice(*(float(value) for value in np.exp(exponents)))


def fitted_price(table: RequestTable, limits: ReplicaLimits, first: np.ndarray, last: np.ndarray) -> StepPrice:
    """The price by which the simulated times to the first and last tokens of the table's first requests, those whose
    times are given, are the measured ones: by least squares through the simulator. Of the later requests it knows when
    they came and how long they were, because they were load for the first ones, and none of their times. Logarithms
    are fitted, so that no coefficient is negative."""
    from scipy.optimize import least_squares

    def residuals(exponents: np.ndarray) -> np.ndarray:
        run = simulate(SimulatedCluster(Pool(1, priced(exponents), limits)), table)
        ours = np.concatenate([run.first_token[: len(first)] - first, run.last_token[: len(last)] - last])
        return ours / (last - first).mean()

    starts = np.log([[2e-2, 1e-4, 1e-7, 5e-5, 1e-9], [4e-2, 1e-4, 3e-7, 1.5e-4, 1e-9], [1e-2, 1e-5, 5e-8, 3e-5, 1e-8]])
    bounds = (np.log(1e-13), np.log(0.2))
    fits = [least_squares(residuals, start, diff_step=3e-3, bounds=bounds, max_nfev=100) for start in starts]
    return priced(min(fits, key=lambda fit: fit.cost).x)


def runs() -> None:
    rows, prices = [], []
    for folder in sorted((data() / "serving_runs").iterdir()):
        table, first, last = real_run(folder)
        half, limits = len(table) // 2, run_limits(folder)
        price = fitted_price(table, limits, first[:half], last[:half])
        prices.append((folder.name, *(f"{value:.3g}" for value in vars(price).values())))
        run = simulate(SimulatedCluster(Pool(1, price, limits)), table)
        measured = _means(table, first, last)
        simulated = _means(table, run.first_token, run.last_token)
        for name in measured:
            for which, part in (("first (fitted)", slice(0, half)), ("second (predicted)", slice(half, None))):
                real, ours = float(measured[name][part].mean()), float(simulated[name][part].mean())
                rows.append((folder.name, which, name, 1000 * real, 1000 * ours, f"{100 * (ours / real - 1):+.2f}%"))
    print_table("Fitted step prices, seconds", ("run", *StepPrice.__dataclass_fields__), prices)
    print_table("Real runs: means", ("run", "half", "quantity", "measured, ms", "simulated, ms", "error"), rows)


def _means(table: RequestTable, first: np.ndarray, last: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "TTFT": first - table.arrival,
        "TPOT": (last - first) / (table.output_tokens - 1),
        "end to end": last - table.arrival,
    }


# -- scale --


def memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def azure(count: int, rate: float, seed: int = 0) -> RequestTable:
    table = RequestTable.of_workload(traces.load(str(data() / "traces/AzureLLMInferenceTrace_conv.csv")))
    return table.repeated(count).at(poisson(count, rate, seed))


def timed(cluster: SimulatedCluster, table: RequestTable, router: Router) -> tuple[SimulatedRun, float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    run = simulate(cluster, table, router=router)
    return run, time.perf_counter() - wall, time.process_time() - processor


def compile_now() -> None:
    """Numba keeps what it compiles: only the first run on a machine takes the time."""
    begin = time.perf_counter()
    simulate(SimulatedCluster(Pool(1, PRICE, LIMITS)), RequestTable.of_lengths([0.0], [2], [2]))
    print(f"compiled, or read what was compiled, in {time.perf_counter() - begin:.1f} s")


def scale(count: int, replicas: int) -> None:
    table = azure(count, 2.0 * replicas)
    rows = []
    for router in Router:
        run, wall, processor = timed(SimulatedCluster(Pool(replicas, PRICE, LIMITS)), table, router)
        found = run.measurement()
        rows.append((router, wall, processor, memory_gb(), found["ttft_mean_ms"], found["tpot_mean_ms"]))
    head = ("router", "wall s", "processor s", "peak memory GB", "TTFT mean ms", "TPOT mean ms")
    print_table(
        f"{replicas:,} replicas, {count:,} requests (Azure's conversations, 2 a second and replica)", head, rows
    )


# -- policies --


def policies(count: int, replicas: int, rates: Sequence[float]) -> None:
    """Mooncake's hour again and again: copies share its one common first block and nothing else."""
    trace = RequestTable.of_workload(traces.load(str(data() / "traces/mooncake_conversation.jsonl")))
    table = trace.repeated(count)
    rows = []
    for rate in rates:
        # In the trace's order and with its gaps, copies side by side, so that what shares a prefix stays close in time.
        arrival = table.arrival * (count / (rate * replicas)) / table.arrival[-1]
        for router in (Router.GATEWAY, Router.PREFIX_AFFINITY, Router.POWER_OF_TWO, Router.LEAST_OUTSTANDING):
            run, wall, _ = timed(SimulatedCluster(Pool(replicas, PRICE, LIMITS)), table.at(arrival), router)
            found = run.measurement(goodput=GOODPUT)
            names = ("cached_prompt_share", "ttft_mean_ms", "ttft_p99_ms", "tpot_mean_ms", "goodput_share")
            rows.append((rate, router, *(found[name] for name in names), wall))
    head = ("requests/s and replica", "router", "cached share", "TTFT ms", "TTFT p99", "TPOT ms", "goodput", "wall s")
    print_table(f"Mooncake, {replicas:,} replicas, {count:,} requests", head, rows)


# -- autoscaling --


def capacity(replicas: int) -> float:
    """Requests a second and replica that `replicas` serve with a goodput of 95%, by bisection."""
    low, high = 0.5, 30.0
    for _ in range(12):
        middle = (low + high) / 2
        table = azure(int(300 * middle * replicas), middle * replicas)
        run = simulate(SimulatedCluster(Pool(replicas, PRICE, LIMITS)), table)
        low, high = (middle, high) if run.meets(GOODPUT).mean() >= 0.95 else (low, middle)
    return low


def scaling(period: float) -> None:
    """Some hours stand for a day. The oracle has, at each moment, just as many replicas as that moment's rate needs,
    without a start time and without a spare one."""
    mean, amplitude = 100.0, 0.7
    each = capacity(20)
    count = int(2 * period * mean)
    table = azure(count, 1.0).at(sine(count, mean, amplitude=amplitude, period=period, seed=1))
    moments = np.arange(0, table.arrival[-1])
    rates = mean * (1 + amplitude * np.sin(2 * math.pi * moments / period))
    oracle = float(np.ceil(rates / each).sum())
    print(f"\na replica of 20 serves {each:.2f} requests a second with a goodput of 95%")
    tokens = float((table.prompt_tokens + table.output_tokens).mean())
    rows = []
    for spare in (0, 1):
        for share in (1.0, 0.95, 0.9):
            policy = Autoscaling(2, 100, share * each * tokens, queue_seconds=2.0, spare=spare)
            cluster = SimulatedCluster(Pool(math.ceil(mean / each) + 1, PRICE, LIMITS), autoscaling=policy)
            run = simulate(cluster, table)
            rows.append((f"{share:.0%}, {spare}", float(run.meets(GOODPUT).mean()), run.replica_seconds / oracle))
    fixed = math.ceil(mean * (1 + amplitude) / each)
    run = simulate(SimulatedCluster(Pool(fixed, PRICE, LIMITS)), table)
    rows.append((f"{fixed} always", float(run.meets(GOODPUT).mean()), run.replica_seconds / oracle))
    head = ("load of a replica, spare ones", "goodput", "cost over the oracle's")
    print_table(f"Autoscaling, {count:,} requests on a sine of {period:g} s, goodput {GOODPUT}", head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("queue", "runs", "scale", "policies", "scaling")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=10_000)
    parser.add_argument("--period", type=float, default=14_400.0, help="seconds of the sine that load follows")
    parser.add_argument("--rates", type=float, nargs="+", default=(0.3, 0.6, 0.9, 1.2), help="per replica, of policies")
    parser.add_argument("--seeds", type=int, default=8)
    asked = parser.parse_args()
    compile_now()
    if "queue" in asked.only:
        queue(asked.requests, asked.seeds)
    if "runs" in asked.only:
        runs()
    if "scale" in asked.only:
        scale(asked.requests, asked.replicas)
    if "policies" in asked.only:
        policies(asked.requests, asked.replicas, asked.rates)
    if "scaling" in asked.only:
        scaling(asked.period)


if __name__ == "__main__":
    main()
