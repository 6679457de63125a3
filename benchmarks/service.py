"""What the gateway costs: throughput through it over the engine's own, interleaved, at 1 and 32 streams.

python -m benchmarks.service [--rounds 5] [--engines openvino llamacpp]
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from functools import partial

from pennyweight import codec, techniques, traces
from pennyweight.deployment import Deployment
from pennyweight.inputs import open_model
from pennyweight.measure import compare as comparing
from pennyweight.serve import open_engine, open_service
from pennyweight.service import Service
from pennyweight.techniques.quantize import Quantize
from pennyweight.workload import Arrivals

REQUESTS = {1: 8, 32: 96}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", default=["openvino", "llamacpp"])
    arguments = parser.parse_args()
    model = techniques.apply(Quantize("Q8_0"), open_model("demo"))
    _, held_out = traces.load("chat").split()
    for engine in arguments.engines:
        settings = {"max_num_seqs": 32, **({"max_model_len": 1024} if engine == "llamacpp" else {})}
        deployment = Deployment(engine, str(model.path), model.id, "Q8_0", settings)
        with ExitStack() as kept:
            through = comparing.opened_once(partial(open_service, Service.of(deployment)), kept)
            direct = comparing.opened_once(partial(open_engine, deployment), kept)
            for streams, count in REQUESTS.items():
                load = held_out.take(count).at_least(count).variant(1000 + streams)
                arrivals = Arrivals("closed", max_concurrency=streams)
                found = comparing.compare(through, direct, load, arrivals, rounds=arguments.rounds)
                print(json.dumps({"engine": engine, "streams": streams, **codec.plain(found)}), flush=True)


if __name__ == "__main__":
    main()
