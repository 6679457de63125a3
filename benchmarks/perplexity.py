"""Perplexity of quantized weights on WikiText-2 (512-token windows, first token of each not scored), read back from the
GGUF file by transformers, so that only the weights count. Needs PENNYWEIGHT_DATA.

    python -m benchmarks.perplexity [--schemes BF16,Q8_0,Q4_K_M,Q4_0] [--tokens 40000] [--iterations 0]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

from pennyweight import checkpoint, schemes, techniques, traces
from pennyweight.engines.base import make
from pennyweight.generation import Score, joined_score
from pennyweight.model import Model
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.techniques.quantize import Quantize
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import texts

WINDOW = 512


def perplexity(directory: Path, text: str, limit: int) -> float:
    runtime = make("transformers", {}).load(directory)
    tokens = Tokenizer(directory).encode(text, add_special_tokens=False)
    tokens = tokens[: limit or len(tokens)]
    total, count = 0.0, 0
    for start in range(0, len(tokens) - WINDOW + 1, WINDOW):
        score = joined_score(runtime.score(tokens[start : start + WINDOW], 1))
        assert isinstance(score, Score)
        scored = score.logprobs
        total -= sum(scored)
        count += len(scored)
    return math.exp(total / count)


def weights(model: Model, scheme: str, iterations: int, calibration: tuple[str, ...]) -> Model:
    """The model whose weights are those of the scheme, in a form that transformers reads."""
    if scheme == model.scheme:
        return model
    technique = Quantize(scheme, iterations, calibration) if schemes.scheme(scheme).calibrated else Quantize(scheme)
    artifact = techniques.apply(technique, model)
    return techniques.apply(Dequantize(), checkpoint.open_model(str(artifact.path / "model.gguf")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="demo")
    parser.add_argument("--schemes", default="BF16,Q8_0,Q4_K_M,Q4_0")
    parser.add_argument("--tokens", type=int, default=0, help="0: the whole text")
    parser.add_argument("--iterations", type=int, default=0)
    parser.add_argument("--workload", default="chat", help="whose tuning half calibrates")
    arguments = parser.parse_args()
    text = (Path(os.environ["PENNYWEIGHT_DATA"]) / "text/wikitext2_valid.txt").read_text()
    model = checkpoint.open_model(arguments.model)
    model = techniques.apply(Dequantize(), model) if model.format == "gguf" else model
    tuning, _ = traces.load(arguments.workload).split()
    for scheme in arguments.schemes.split(","):
        iterations = arguments.iterations if schemes.scheme(scheme).tunable else 0
        started = time.perf_counter()
        made = weights(model, scheme, iterations, tuple(texts(tuning.requests)))
        built = time.perf_counter() - started
        value = perplexity(made.path, text, arguments.tokens)
        row = {
            "scheme": scheme,
            "iterations": iterations,
            "perplexity": round(value, 3),
            "build_seconds": round(built, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
