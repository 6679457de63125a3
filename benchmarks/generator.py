"""How much load can the generator make before it is itself the bottleneck? Open loop against the scripted engine, the
generator pinned to one core and the engine to the other. Target: 500 requests/s with a p99 lag under 10 ms.

    python -m benchmarks.generator [--rate 500] [--seconds 20]
"""

from __future__ import annotations

import argparse
import json
import os

import psutil

from pennyweight.checkpoint import open_model
from pennyweight.deployment import Deployment
from pennyweight.measure.client import Sampling
from pennyweight.measure.speed import measure_speed
from pennyweight.serve import open_engine
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.techniques.jobs import apply
from pennyweight.workload import Arrivals, Request, Workload


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--tokens", type=int, default=4)
    arguments = parser.parse_args()
    model = apply(Dequantize(), open_model("demo"))
    count = int(arguments.rate * arguments.seconds)
    requests = tuple(Request(str(i), str(i), arguments.tokens, prompt="Once upon a time") for i in range(count))
    deployment = Deployment("scripted", str(model.path), model.id, "BF16", {"max_num_seqs": 4096})
    cores = sorted(os.sched_getaffinity(0))
    with open_engine(deployment) as endpoint:
        assert endpoint.process is not None
        tree = psutil.Process(endpoint.process.process.pid)
        for process in [tree, *tree.children(recursive=True)]:
            process.cpu_affinity([cores[-1]])
        os.sched_setaffinity(0, {cores[0]})
        run = measure_speed(
            endpoint, Workload("rate", requests), Arrivals("poisson", request_rate=arguments.rate), Sampling()
        )
    names = ("request_throughput", "generator_lag_ms", "generator_cpu_share", "ttft_p50_ms", "ttft_p99_ms")
    print(json.dumps({"rate": arguments.rate, **{n: round(run[n], 3) for n in names}}))


if __name__ == "__main__":
    main()
