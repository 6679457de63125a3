"""The chosen deployment under the load that AutoDistiller 1.2 benchmarks with: one 256-token prompt sent by every
request, 128 answer tokens, closed loop. Its own recommendation (Q8_0 on llama-server) peaked at 138 output tokens/s on
two cores (docs/log/rivals.md). Needs what `make demo` wrote.

    python -m benchmarks.rival [--deployment demo-out]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pennyweight import formats, traces
from pennyweight.measure.client import Sampling
from pennyweight.measure.speed import measure_speed
from pennyweight.serve import open_service
from pennyweight.service import Service
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import Arrivals, Request, Workload, texts

PROMPT, OUTPUT = 256, 128
RIVAL_PEAK = 138.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deployment", type=Path, default=Path("demo-out"))
    arguments = parser.parse_args()
    chosen = formats.read_service(arguments.deployment).only
    assert chosen is not None
    text = "\n".join(texts(traces.load("extract").requests[:2]))
    prompt = tuple(Tokenizer(Path(chosen.model_path)).encode(text)[:PROMPT])
    with open_service(Service.of(chosen)) as endpoint:
        for streams in (1, 16, 32):
            requests = tuple(Request(str(i), str(i), OUTPUT, prompt_tokens=prompt) for i in range(4 * streams))
            arrivals = Arrivals("closed", max_concurrency=streams)
            run = measure_speed(endpoint, Workload("one prompt", requests), arrivals, Sampling(ignore_eos=True))
            speed = run["output_throughput"]
            row = {"streams": streams, "tokens_per_s": speed, "over_138": speed / RIVAL_PEAK}
            print(json.dumps({"deployment": chosen.label, **row}), flush=True)


if __name__ == "__main__":
    main()
