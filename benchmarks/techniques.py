"""What each technique costs and what distillation wins back, on stories15M (full precision, on stories of its own), and
the round trip of trimmed tokenizers. Parts can be run alone; each prints one line of JSON per row.

    python -m benchmarks.techniques [random|distill|rounding|roundtrip|sparsity|changed|smollm2|draft …] [--minutes 15]

Needs PENNYWEIGHT_DATA. Targets: each ranking clearly beats random removal; distillation closes 70% of the gap at 25%
fewer parameters; training through Q4_0 closes 50% of the gap between nearest rounding and full precision.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers

from pennyweight import checkpoint, techniques, traces
from pennyweight.deployment import Deployment
from pennyweight.measure import compare as comparing
from pennyweight.model import Model
from pennyweight.serve import catalogue, open_engine
from pennyweight.techniques.base import Technique, no_progress
from pennyweight.techniques.continuations import Text, continue_texts, pad
from pennyweight.techniques.depth import Depth
from pennyweight.techniques.distill import Distill
from pennyweight.techniques.key_value_heads import KeyValueHeads
from pennyweight.techniques.quantize import Quantize
from pennyweight.techniques.rounding import rounded
from pennyweight.techniques.sparsity import Sparsity
from pennyweight.techniques.vocabulary import Vocabulary
from pennyweight.techniques.width import Width
from pennyweight.workload import Arrivals, texts

PARTS = ("random", "distill", "rounding", "roundtrip", "sparsity", "changed", "smollm2", "draft")
RANDOM_SEEDS = (1, 2)  # of blocks: one of six by chance may be the right one
HELD_OUT, CALIBRATION = 64, 64  # stories, each with seeds of its own
STRINGS = 100_000


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


class Stories:
    """stories15M, and stories that it wrote: some to rank on, others to judge by."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        data = Path(os.environ["PENNYWEIGHT_DATA"])
        self.model = checkpoint.open_model(str(data.parent / "models" / "stories15m"))
        self.network = AutoModelForCausalLM.from_pretrained(self.model.path, dtype=torch.float32).eval()
        self.tokenizer = tokenizers.Tokenizer.from_file(str(self.model.path / "tokenizer.json"))
        self.held_out = self.write(HELD_OUT, seed=1_000)
        self.calibration = tuple(
            self.tokenizer.decode(list(text.tokens)) for text in self.write(CALIBRATION, seed=2_000)
        )
        self.own_loss = self.loss(self.network)

    def write(self, count: int, seed: int) -> list[Text]:
        import torch

        torch.manual_seed(seed)
        settings = Distill(str(self.model.path), self.model.id, ("",) * 8)
        return [Text(len(h), (*h, *r)) for h, r in continue_texts(self.network, self.tokenizer, [""] * count, settings)]

    def loss(self, network: Any) -> float:
        """Nats per token over the held-out stories."""
        import torch

        total, count = 0.0, 0
        with torch.inference_mode():
            for start in range(0, len(self.held_out), 16):
                batch = pad(self.held_out[start : start + 16])
                learn = batch.pop("learn").bool()[:, :-1]
                logits = network(**batch, use_cache=False).logits[:, :-1][learn].float()
                wanted = batch["input_ids"][:, 1:][learn]
                total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
                count += int(learn.sum())
        return total / count

    def added(self, made: Model, scheme: str = "") -> float:
        """Added nats of a changed model, its blocks rounded to a scheme where one is named."""
        import torch
        from transformers import AutoModelForCausalLM

        network = AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32).eval()
        if scheme:
            with torch.no_grad():
                for module in network.model.layers.modules():
                    if isinstance(module, torch.nn.Linear):
                        module.weight.copy_(rounded(module.weight, scheme))
        return self.loss(network) - self.own_loss


def against_random(stories: Stories) -> None:
    """Each technique's ranking against random removal of as much."""
    own = stories.calibration
    pairs: list[tuple[str, Technique, list[Technique]]] = []
    for layers in (5, 4):
        by_chance: list[Technique] = [Depth(layers, "random", seed=seed) for seed in RANDOM_SEEDS]
        pairs.append((f"depth: {6 - layers} of 6 blocks", Depth(layers, "loss", own), by_chance))
    for sizes in ({"intermediate": 672}, {"intermediate": 480}, {"groups": 4}, {"hidden": 192}):
        by_chance = [Width(**sizes, ranking="random", seed=RANDOM_SEEDS[0])]  # type: ignore[arg-type]
        pairs.append((f"width: {sizes}", Width(**sizes, calibration=own), by_chance))  # type: ignore[arg-type]
    for pattern in ("50%", "2:4"):
        chance: list[Technique] = [Sparsity(pattern, "random")]
        pairs.append((f"sparsity: {pattern} wanda", Sparsity(pattern, "wanda", own), chance))
        pairs.append((f"sparsity: {pattern} magnitude", Sparsity(pattern, "magnitude"), chance))
    for name, ranked, randoms in pairs:
        added = stories.added(techniques.apply(ranked, stories.model))
        chance_added = [stories.added(techniques.apply(r, stories.model)) for r in randoms]
        mean = sum(chance_added) / len(chance_added)
        say(
            part="random",
            what=name,
            added_nats=round(added, 4),
            random=[round(c, 4) for c in chance_added],
            share_of_random=round(added / mean, 3),
        )


def distilled(
    stories: Stories, student: Model, minutes: float, seconds_per_step: float = 0.0, **more: Any
) -> tuple[Model, dict[str, Any]]:
    """For about so many minutes, the teacher's writing included: where nothing tells the pace, a few steps do."""
    settings = Distill(
        str(stories.model.path),
        stories.model.id,
        ("",) * 64,
        continuations=24,
        steps=20,
        batch=4,
        mixed_precision=True,
        hidden=1.0,
        **more,
    )
    rate: list[float] = []
    began = 0.0

    def watch(done: int, _total: int, note: str = "") -> None:
        nonlocal began
        if "loss" in note and done == 1:  # the first step also warms up
            began = time.perf_counter()
        elif "loss" in note:
            rate.append((time.perf_counter() - began) / (done - 1))

    started = time.perf_counter()
    if not seconds_per_step:
        fresh = 1e-7 * (1 + time.time() % 1)  # an artifact from the cache would tell no rate
        techniques.apply(replace(settings, learning_rate=fresh), student, watch)
        seconds_per_step = rate[-1]
    left = 60 * minutes - (time.perf_counter() - started)
    steps = max(20, int(left / seconds_per_step))
    made = techniques.apply(replace(settings, steps=steps), student, no_progress)
    seconds = time.perf_counter() - started
    return made, {"steps": steps, "seconds": round(seconds), "seconds_per_step": round(seconds_per_step, 3)}


def distillation(stories: Stories, minutes: float) -> None:
    """Added nats before and after, 10% to 40% of blocks or neurons removed; the long run at 25% fewer parameters."""
    own = stories.calibration
    whole = stories.model
    cases: list[tuple[str, list[Technique], float]] = [  # the first one pays for the teacher's writing
        ("37.5% of neurons: 25% of block parameters", [Width(intermediate=480, calibration=own)], minutes),
        ("12.5% of neurons", [Width(intermediate=672, calibration=own)], minutes / 15),
        ("17% of blocks (5 of 6)", [Depth(5, "loss", own)], minutes / 15),
        ("33% of blocks (4 of 6)", [Depth(4, "loss", own)], minutes / 12),
        ("key-value heads 6 to 2", [KeyValueHeads(2)], minutes / 15),
    ]
    pace = 0.0  # the first case's: the others' students are as large or larger
    for name, steps, share in cases:
        student = whole
        for step in steps:
            student = techniques.apply(step, student)
        before = stories.added(student)
        made, facts = distilled(stories, student, share, pace)
        pace = facts["seconds_per_step"]
        after = stories.added(made)
        say(
            part="distill",
            what=name,
            before=round(before, 4),
            after=round(after, 4),
            closed=round(1 - after / before, 3),
            **facts,
        )


def training_through_rounding(stories: Stories, minutes: float) -> None:
    nearest = stories.added(stories.model, "Q4_0")
    made, facts = distilled(stories, stories.model, minutes / 5, round_to="Q4_0", learning_rate=3e-5)
    after = stories.added(made, "Q4_0")
    say(
        part="rounding",
        scheme="Q4_0",
        nearest=round(nearest, 4),
        trained=round(after, 4),
        closed=round(1 - after / nearest, 3),
        **facts,
    )
    techniques.apply(Quantize("Q4_0", rounding="nearest"), made)


def round_trips(stories: Stories) -> None:
    """Random Unicode strings and all real texts through trimmed tokenizers."""
    data = Path(os.environ["PENNYWEIGHT_DATA"]) / "text"
    demo = options_model("demo")
    texts = [file.read_text(encoding="utf-8") for file in sorted(data.iterdir())]
    generator = random.Random(0)
    for model in (demo, stories.model):
        made = techniques.apply(Vocabulary(0, tuple(stories.calibration)), model)
        full = tokenizers.Tokenizer.from_file(str(model.path / "tokenizer.json"))
        trimmed = tokenizers.Tokenizer.from_file(str(made.path / "tokenizer.json"))
        strings = [
            "".join(chr(_code_point(generator)) for _ in range(generator.randint(0, 24))) for _ in range(STRINGS)
        ]
        asked = [*strings, *texts]
        back = _back(trimmed, asked)
        wrong = sum(ours != before for ours, before in zip(back, _back(full, asked), strict=True))
        inexact = sum(ours != text for ours, text in zip(back, asked, strict=True))
        grown = [len(trimmed.encode(t).ids) / len(full.encode(t).ids) for t in texts]
        say(
            part="roundtrip",
            model=model.name,
            tokens=[full.get_vocab_size(), trimmed.get_vocab_size()],
            strings=STRINGS,
            texts=len(texts),
            unlike_before=wrong,
            inexact=inexact,
            tokens_of_texts=[round(g, 3) for g in grown],
            parameters_lost=made_smaller(model, made),
        )


def _code_point(generator: random.Random) -> int:
    """Any of Unicode but the surrogates, a third of them ASCII."""
    if generator.random() < 0.33:
        return generator.randrange(128)
    point = generator.randrange(0x110000 - 0x800)
    return point if point < 0xD800 else point + 0x800


def _back(tokenizer: Any, asked: list[str]) -> list[str]:
    there = tokenizer.encode_batch_fast(asked, add_special_tokens=False)
    return list(tokenizer.decode_batch([encoding.ids for encoding in there], skip_special_tokens=False))


def made_smaller(before: Model, after: Model) -> int:
    from pennyweight.weights import Weights

    return Weights(before.path).parameters - Weights(after.path).parameters


def options_model(reference: str) -> Model:
    from pennyweight.techniques.dequantize import Dequantize

    return techniques.apply(Dequantize(), checkpoint.open_model(reference))


SERVED = (("openvino", "Q8_0"), ("onnxruntime", "INT8"), ("llamacpp", "Q8_0"))


def against_whole(part: str, what: str, changed: Model, whole: Model, streams: int, rounds: int) -> None:
    """How much faster a changed model is than the whole one, in turns, on each engine."""
    requests = traces.load("chat").take(2 * streams, 0)
    arrivals = Arrivals("closed", max_concurrency=streams)
    for engine, scheme in SERVED:
        if catalogue.offer(engine).missing:
            continue
        made = [techniques.apply(Quantize(scheme), model) for model in (changed, whole)]
        length = {"max_model_len": 1024} if engine == "llamacpp" else {}
        settings = {"max_num_seqs": streams, **length}
        with ExitStack() as kept:
            ours, theirs = (
                comparing.opened_once(lambda d=deployment: open_engine(d), kept)  # type: ignore[misc]
                for deployment in (Deployment(engine, str(m.path), m.id, scheme, settings) for m in made)
            )
            found = comparing.compare(ours, theirs, requests, arrivals, rounds=rounds, ignore_eos=True)
        say(
            part=part,
            what=what,
            engine=engine,
            scheme=scheme,
            times_as_fast=round(found.ratio, 3),
            interval=[round(end, 3) for end in found.interval],
        )


def sparse_speed() -> None:
    """What zeros are worth: nothing is expected."""
    whole = options_model("demo")
    sparse = techniques.apply(Sparsity("2:4", "wanda", tuple(texts(traces.load("chat").requests))), whole)
    against_whole("sparsity", "2:4", sparse, whole, 16, 2)


def changed_speed() -> None:
    """The trimmed, the depth-pruned and the combined SmolLM2."""
    whole, calibration = options_model("demo"), tuple(texts(traces.load("chat").requests))
    layers = whole.config["num_hidden_layers"] * 9 // 10
    trimmed = techniques.apply(Vocabulary(0, calibration), whole)
    pruned = techniques.apply(Depth(layers, "influence", calibration), whole)
    both = techniques.apply(Vocabulary(0, calibration), pruned)
    for name, model in (("trimmed", trimmed), ("pruned by a tenth", pruned), ("both", both)):
        against_whole("changed", name, model, whole, 8, 2)


def smollm2() -> None:
    """The trimmed, the depth-pruned and the combined model through `pw optimize` on chat, on the engine that wins."""
    with tempfile.TemporaryDirectory(prefix="pennyweight-techniques-") as directory:
        out = Path(directory) / "out"
        command = [
            sys.executable,
            "-m",
            "pennyweight",
            "optimize",
            "demo",
            "-o",
            str(out),
            "--json",
            "--rounds",
            "1",
            "--engines",
            "openvino",
            "--schemes",
            "Q8_0",
            "--techniques",
            "prune,vocabulary",
        ]
        line = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        evidence = json.loads((out / "evidence.json").read_text())
    for row in evidence["techniques"]:
        say(part="smollm2", **row)
    say(part="smollm2", summary=json.loads(line))


def draft() -> None:
    command = [sys.executable, "-m", "pennyweight", "draft", "demo", "--steps", "20", "--rounds", "1", "--json"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    say(part="draft", **json.loads(output.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--minutes", type=float, default=15.0, help="of the longest distillation")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    stories = Stories() if set(parts) & {"random", "distill", "rounding", "roundtrip"} else None
    work: dict[str, Callable[[], None]] = {
        "sparsity": sparse_speed,
        "changed": changed_speed,
        "smollm2": smollm2,
        "draft": draft,
    }
    if stories is not None:
        tokens = sum(len(text.tokens) for text in stories.held_out)
        say(part="stories", loss=round(stories.own_loss, 4), held_out_tokens=tokens)
        work |= {
            "random": partial(against_random, stories),
            "roundtrip": partial(round_trips, stories),
            "distill": partial(distillation, stories, arguments.minutes),
            "rounding": partial(training_through_rounding, stories, arguments.minutes),
        }
    for part in parts:
        started = time.perf_counter()
        work[part]()
        say(part=part, minutes=round((time.perf_counter() - started) / 60, 1))


if __name__ == "__main__":
    main()
