"""Every pair of presets of every installed engine, once, on a small model: tokens against the engine without presets,
speed against each preset alone. Writes pennyweight/search/compatibility.json and docs/compatibility.md.

    python -m benchmarks.compatibility [ENGINE …]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from pennyweight import checkpoint, hardware, techniques, traces
from pennyweight.deployment import Deployment
from pennyweight.errors import PennyweightError
from pennyweight.model import Model
from pennyweight.search import compatibility
from pennyweight.search.bench import build_scheme
from pennyweight.search.compatibility import Pair
from pennyweight.serve import catalogue, open_engine
from pennyweight.techniques.depth import Depth
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import texts

ROOT = Path(__file__).parent.parent
SCHEMES = {"gguf": "Q8_0", "onnx": "FP32"}  # else the model's own
PROMPTS, TOKENS, LONGEST_PROMPT = 16, 32, 300
DRAFT_BLOCKS = 10
LESS = 0.15  # of agreement than either preset alone, twice: broken. One early near-tie costs 0.06
SLOWER = 0.85  # of the faster one alone, twice: no gain


class Bench:
    def __init__(self, model: Model, engine: str) -> None:
        self.engine = engine
        offer = catalogue.offer(engine)
        self.scheme = SCHEMES.get(offer.model_format, model.scheme)
        self.model = build_scheme(model, engine, self.scheme)
        tokenizer = Tokenizer(model.path)
        rendered = [tokenizer.prompt_text(request) for request in traces.load("extract").requests]
        prompts = [tokenizer.encode(text, add_special_tokens=False) for text in rendered]
        self.prompts = [prompt[-LONGEST_PROMPT:] for prompt in prompts[:: len(prompts) // PROMPTS]][:PROMPTS]
        self.draft = ""
        if any("draft_model" in preset for preset in offer.presets.values()):
            calibration = tuple(texts(traces.load("chat").requests))
            small = techniques.apply(Depth(DRAFT_BLOCKS, "influence", calibration), model)
            self.draft = str(build_scheme(small, engine, self.scheme).path)

    def attempt(self, settings: Mapping[str, Any]) -> tuple[list[list[int]], float, str]:
        """As `run`, with the reason where it fails."""
        try:
            return (*self.run(settings), "")
        except (PennyweightError, OSError) as error:
            return [], 0.0, str(error)[:200].replace("|", "/").replace("\n", " ")

    def run(self, settings: Mapping[str, Any]) -> tuple[list[list[int]], float]:
        """Answers in tokens, and tokens/s at one stream."""
        settings = {"max_num_seqs": 4, **settings, **({"draft_model": self.draft} if "draft_model" in settings else {})}
        deployment = Deployment(self.engine, str(self.model.path), self.model.id, self.model.scheme, settings)
        with (
            tempfile.TemporaryDirectory() as directory,
            open_engine(deployment, log=Path(directory) / "log") as endpoint,
        ):
            ask(endpoint.base_url, self.prompts[0])
            began = time.perf_counter()
            answers = [ask(endpoint.base_url, prompt) for prompt in self.prompts]
            return answers, sum(map(len, answers)) / (time.perf_counter() - began)


def ask(base_url: str, prompt: Sequence[int]) -> list[int]:
    body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    request = urllib.request.Request(
        f"{base_url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as answer:
        found: list[int] = json.load(answer)["choices"][0]["token_ids"]
    return found


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> float:
    def same(a: list[int], b: list[int]) -> float:
        differs = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        return differs / max(len(a), len(b), 1)

    return mean(same(a, b) for a, b in zip(ours, theirs, strict=True))


def matrix(bench: Bench, presets: Mapping[str, Mapping[str, Any]]) -> list[Pair]:
    plain, speed = bench.run({})
    print(f"{bench.engine}: {speed:.0f} tokens/s without presets", flush=True)
    alone: dict[str, tuple[float, float]] = {}
    faults: dict[str, str] = {}
    for name, preset in presets.items():
        answers, fast, faults[name] = bench.attempt(preset)
        alone[name] = agreement(answers, plain) if answers else 0.0, fast
        print(f"  {name}: {alone[name][0]:.2f}, {fast / speed:.2f} times as fast {faults[name]}", flush=True)
    made = []
    for first, second in compatibility.combinable(presets):
        fault = faults[first] or faults[second]
        if fault:
            pair = Pair(bench.engine, first, second, "broken", 0.0, 0.0, f"one of them fails alone: {fault}")
        else:
            pair = judged(bench, plain, alone, first, second, {**presets[first], **presets[second]})
            if pair.verdict != "works":  # one run is no verdict
                again = judged(bench, plain, alone, first, second, {**presets[first], **presets[second]})
                pair = max(pair, again, key=lambda p: (p.verdict != "broken", p.speed))
        made.append(pair)
        print(f"  {first} + {second}: {pair.verdict}, {pair.agreement:.2f}, {pair.speed:.2f} {pair.why}", flush=True)
    return made


def judged(
    bench: Bench,
    plain: list[list[int]],
    alone: Mapping[str, tuple[float, float]],
    first: str,
    second: str,
    settings: Mapping[str, Any],
) -> Pair:
    answers, fast, fault = bench.attempt(settings)
    if fault:
        return Pair(bench.engine, first, second, "broken", 0.0, 0.0, fault)
    agreed, ratio = agreement(answers, plain), fast / max(alone[first][1], alone[second][1])
    least = min(alone[first][0], alone[second][0]) - LESS
    why = f"it agrees {agreed:.2f}, the presets alone at least {least + LESS:.2f}" if agreed < least else ""
    verdict = "broken" if why else "no gain" if ratio < SLOWER else "works"
    return Pair(bench.engine, first, second, verdict, round(agreed, 3), round(ratio, 3), why)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engines", nargs="*", help="by default all that are installed and have presets")
    asked = parser.parse_args().engines
    model = techniques.apply(Dequantize(), checkpoint.open_model("demo"))
    table = ROOT / "pennyweight" / "search" / compatibility.TABLE_FILE
    kept = [asdict(p) for p in compatibility.pairs()]
    told = dict(compatibility.measured_on())
    machine = hardware.detect()
    for engine in asked or catalogue.names():
        offer = catalogue.offer(engine)
        if offer.missing or not compatibility.combinable(offer.presets):
            continue
        fresh = [asdict(pair) for pair in matrix(Bench(model, engine), offer.presets)]
        kept = [row for row in kept if row["engine"] != engine] + fresh
        told[engine] = f"{offer.version}, {machine.cpu}, {machine.cores} cores, {time.strftime('%Y-%m-%d')}"
        table.write_text(json.dumps({"measured_on": told, "pairs": kept}, indent=1) + "\n")
        compatibility.table.cache_clear()
        (ROOT / "docs" / "compatibility.md").write_text(compatibility.as_markdown())


if __name__ == "__main__":
    main()
