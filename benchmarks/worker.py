"""Worker against library: output tokens/s through the worker, the load generator included, over the same library
driven directly, in interleaved runs. Target: at least 0.90 at 32 streams.

    python -m benchmarks.worker [--rounds 3] [--streams 32]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from pennyweight import checkpoint, techniques
from pennyweight.deployment import Deployment
from pennyweight.engines.base import make
from pennyweight.generation import Generation
from pennyweight.measure.client import Sampling
from pennyweight.measure.speed import measure_speed
from pennyweight.serve import open_engine
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.techniques.quantize import Quantize
from pennyweight.workload import Arrivals, Request, Workload

PROMPT, OUTPUT, REQUESTS = 40, 96, 96


def prompts(count: int) -> list[list[int]]:
    return [[(17 * i + 31 * j) % 40000 + 100 for j in range(PROMPT)] for i in range(count)]


def direct(directory: str, streams: int) -> float:
    """The same closed loop on the bare runtime, in a process of its own."""
    runtime = make("openvino", {"max_num_seqs": streams}).load(Path(directory))
    for warm in (True, False):
        waiting = [Generation(f"{warm}{i}", p, OUTPUT) for i, p in enumerate(prompts(4 if warm else REQUESTS))]
        started, left, tokens = time.perf_counter(), len(waiting), 0
        for generation in waiting:
            runtime.submit(generation)
        while left:
            for event in runtime.step():
                tokens += len(event.tokens)
                left -= event.finish is not None
    return tokens / (time.perf_counter() - started)


def through_worker(model: Path, model_id: str, streams: int) -> float:
    requests = tuple(Request(str(i), str(i), OUTPUT, prompt_tokens=tuple(p)) for i, p in enumerate(prompts(REQUESTS)))
    deployment = Deployment("openvino", str(model), model_id, "Q8_0", {"max_num_seqs": streams})
    with open_engine(deployment) as endpoint:
        arrivals = Arrivals("closed", max_concurrency=streams)
        run = measure_speed(endpoint, Workload("fixed", requests), arrivals, Sampling(ignore_eos=True))
        return run["output_throughput"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--direct", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.direct:
        print(direct(arguments.direct, arguments.streams))
        return
    model = techniques.apply(Dequantize(), checkpoint.open_model("demo"))
    artifact = techniques.apply(Quantize("Q8_0"), model)
    ratios, workers, bares = [], [], []
    for _ in range(arguments.rounds):
        command = [sys.executable, __file__, "--direct", str(artifact.path), "--streams", str(arguments.streams)]
        bares.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
        workers.append(through_worker(artifact.path, artifact.id, arguments.streams))
        ratios.append(workers[-1] / bares[-1])
        print(
            f"library {bares[-1]:.0f} tokens/s, worker {workers[-1]:.0f} tokens/s, ratio {ratios[-1]:.3f}", flush=True
        )
    print(json.dumps({"library": median(bares), "worker": median(workers), "ratio": median(ratios), "ratios": ratios}))


if __name__ == "__main__":
    main()
