"""The chosen deployment against transformers bf16 and against the fastest unmodified engine at 1, 8 and 32 streams:
interleaved runs, ratios with 95% confidence intervals. Needs the directory that `make demo` wrote.

    python -m benchmarks.streams [--deployment demo-out] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from pennyweight import codec, formats, traces
from pennyweight.checkpoint import open_model
from pennyweight.measure import compare as comparing
from pennyweight.search.bench import build_scheme
from pennyweight.search.verify import read_accepted
from pennyweight.serve import open_service
from pennyweight.service import Service
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.techniques.jobs import apply
from pennyweight.workload import Arrivals

REQUESTS = {1: 8, 8: 40, 32: 96}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deployment", type=Path, default=Path("demo-out"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    evidence = read_accepted(arguments.deployment)
    chosen = formats.read_service(arguments.deployment).only
    assert chosen is not None
    model = apply(Dequantize(), open_model("demo"))
    others = {"transformers bf16": replace(evidence.baseline, model_path=str(model.path))}
    fastest = evidence.fastest_unmodified
    if fastest and not evidence.unmodified_wins:
        built = build_scheme(model, fastest.engine, fastest.scheme)
        others["fastest unmodified"] = replace(fastest, model_path=str(built.path))
    _, held_out = traces.load("chat").split()
    for name, other in others.items():
        with ExitStack() as kept:
            first, second = (comparing.opened_once(partial(open_service, Service.of(d)), kept) for d in (chosen, other))
            for streams, count in REQUESTS.items():
                # The servers run on from one load to the next, so each load has texts of its own.
                load = held_out.take(count).at_least(count).variant(1000 + streams)
                arrivals = Arrivals("closed", max_concurrency=streams)
                result = comparing.compare(first, second, load, arrivals, rounds=arguments.rounds)
                row = {"chosen": chosen.label, "against": f"{name}: {other.label}", "streams": streams}
                print(json.dumps({**row, **codec.plain(result)}), flush=True)


if __name__ == "__main__":
    main()
