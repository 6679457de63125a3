"""All installed engines with all their precisions at 1, 8 and 32 streams, short and long prompts, interleaved; what
speculation gains. One line of JSON per result. (A native llama.cpp against a wheel: llamacpp.py.)

    python -m benchmarks.engines [table|winners|large|speculation …] [--rounds 2] [--table FILE] [--cells long-32 …]
                                 [--schemes BF16 …]

`winners` asks `pw optimize` for the fastest in the table's cells, and needs the table, or its lines of an earlier run
(`--table`). `large` is a table of a random-weight model of Llama-3.2-1B's shape, one round; long prompts at 32 streams
only if they are named, as they take as long as the other five cells together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pennyweight import checkpoint, codec, formats, schemes, techniques, traces
from pennyweight.deployment import Deployment
from pennyweight.errors import PennyweightError
from pennyweight.hardware import Hardware
from pennyweight.measure import compare as comparing
from pennyweight.measure.client import Sampling
from pennyweight.measure.proof.references import references
from pennyweight.measure.speed import measure_speed
from pennyweight.model import Model
from pennyweight.plan.machine import measured_hardware
from pennyweight.search.bench import build_scheme
from pennyweight.serve import Endpoint, catalogue, open_engine
from pennyweight.shape import ModelShape
from pennyweight.techniques.base import no_progress
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import Arrivals, Request, Workload, texts

PARTS = ("table", "winners", "large", "speculation")
STREAMS = (1, 8, 32)
PROMPTS = {"short": 32, "long": 512}
OUTPUT = 32
GUESSES = (8,)
CONVERTED = {"gguf": "F16", "onnx": "FP32"}  # else the model's own
PRECISE: dict[str, dict[str, str]] = {  # several tokens at once must round as one does, which 8 bits do not
    "openvino": {"inference_precision": "f32", "kv_cache_dtype": "f32"},
    "llamacpp": {"kv_cache_dtype": "f32"},
    "transformers": {"dtype": "float32"},
    "vllm": {"dtype": "float32"},
}
ASKED = 96  # requests at least that `pw optimize` is shown: it calibrates on half of them
AGAINST_ROUNDS = 5
EDITED_FILES, EDITED_LINES, EDITED_TOKENS = 6, 40, 256
WITHOUT_GATE = "10"  # nats: which scheme is fastest, whatever it costs
LARGE_SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


@dataclass(frozen=True)
class Cell:
    streams: int
    prompt: str

    @property
    def requests(self) -> int:
        return max(4, 3 * self.streams // 2)

    def load(self, tokens: Sequence[int]) -> Workload:
        """Requests whose prompts all differ, cut from one long text."""
        length = PROMPTS[self.prompt]
        starts = np.random.default_rng(self.streams).integers(0, len(tokens) - length, self.requests)
        made = tuple(
            Request(id=f"{n}", session=f"{n}", prompt_tokens=tuple(tokens[start : start + length]), max_tokens=OUTPUT)
            for n, start in enumerate(starts)
        )
        return Workload(self.name, made)

    @property
    def name(self) -> str:
        return f"{self.prompt}-{self.streams}"

    def bound_seconds(self, model: Model, scheme: str, hardware: Hardware) -> float:
        """What the machine's measured bandwidth and arithmetic allow at best."""
        shape = ModelShape.of(model.config)
        kind = schemes.scheme(scheme).arithmetic
        rate = hardware.arithmetic_rate.get(kind, hardware.arithmetic_rate["f32"])
        weights = shape.read_parameters(self.streams) * schemes.scheme(scheme).bits / 8
        head = shape.vocabulary * shape.hidden_size  # is read once a prompt, not once a token
        prompts = 2 * (shape.used_parameters - head) * PROMPTS[self.prompt] * self.requests / rate
        step = max(weights / hardware.memory_bandwidth, 2 * shape.used_parameters * self.streams / rate)
        return float(prompts + step * OUTPUT * self.requests / self.streams)


CELLS = [Cell(streams, prompt) for prompt in PROMPTS for streams in STREAMS]
LARGE_CELLS = CELLS[:-1]


def chosen_cells(names: Sequence[str], otherwise: Sequence[Cell]) -> Sequence[Cell]:
    return [cell for cell in CELLS if cell.name in names] if names else otherwise


def built(model: Model, largest: int, only: Sequence[str]) -> Iterator[Deployment]:
    """Every engine with every precision that it serves of this model, or with these of them."""
    calibration = tuple(texts(traces.load("chat").requests)[:32])
    for engine in catalogue.names():
        offer = catalogue.offer(engine)
        for scheme in catalogue.schemes_of(engine, model):
            if only and scheme not in only:
                continue
            reason = catalogue.refusal(engine, scheme, model.config)
            if reason:
                say(part="table", model=model.name, engine=engine, scheme=scheme, refused=reason)
                continue
            length = {"max_model_len": 1024} if "max_model_len" in offer.settings else {}
            made = build_scheme(model, engine, scheme, calibration=calibration)
            settings = {"max_num_seqs": largest, **length}
            yield Deployment(engine, str(made.path), made.id, scheme, settings)


def long_text(tokenizer: Tokenizer) -> list[int]:
    """What the cells' prompts are cut from."""
    return [token for text in texts(traces.load("extract").requests) for token in tokenizer.encode(text)]


Best = dict[Cell, dict[str, float]]  # tokens/s by engine and scheme


def table(model: Model, cells: Sequence[Cell], rounds: int, only: Sequence[str] = ()) -> Best:
    """Rounds over all deployments, so that the machine's moods fall on all of them."""
    hardware = measured_hardware()
    tokens = long_text(Tokenizer(model.path))
    deployments = list(built(model, max(cell.streams for cell in cells), only))
    speeds: dict[tuple[str, Cell], list[float]] = {}
    for number in range(rounds):
        order = deployments if number % 2 == 0 else deployments[::-1]
        for deployment in order:
            try:
                with open_engine(deployment) as endpoint:
                    for cell in cells:
                        made = run(endpoint, cell, cell.load(tokens).variant(number))
                        speeds.setdefault((deployment.id, cell), []).append(made)
                        print(f"{deployment.engine} {deployment.scheme} {cell.name}: {made:.1f}/s", file=sys.stderr)
            except PennyweightError as error:
                say(part="table", deployment=deployment.label, failed=str(error)[:300])
    told: Best = {}
    for cell in cells:
        best = max((np.mean(found) for (_, c), found in speeds.items() if c == cell), default=1.0)
        for deployment in deployments:
            found = speeds.get((deployment.id, cell))
            if found:
                told.setdefault(cell, {})[f"{deployment.engine} {deployment.scheme}"] = float(np.mean(found))
                seconds = cell.requests * OUTPUT / float(np.mean(found))
                limit = cell.bound_seconds(model, deployment.scheme, hardware)
                say(
                    part="table",
                    model=model.name,
                    prompt=cell.prompt,
                    streams=cell.streams,
                    engine=deployment.engine,
                    scheme=deployment.scheme,
                    tokens_per_s=[round(f, 1) for f in found],
                    share_of_best=round(float(np.mean(found) / best), 3),
                    share_of_limit=round(limit / seconds, 3),
                )
    return told


def told_before(lines: Path) -> Best:
    told: Best = {}
    for row in map(json.loads, filter(lambda line: line.startswith("{"), lines.read_text().splitlines())):
        if row["part"] == "table" and "tokens_per_s" in row:
            name = f"{row['engine']} {row['scheme']}"
            told.setdefault(Cell(row["streams"], row["prompt"]), {})[name] = float(np.mean(row["tokens_per_s"]))
    return told


def winners(model: Model, speeds: Best, only: Sequence[str]) -> None:
    """What `pw optimize` picks of such a load, and how far it is from the table's best.

    Cells of one prompt length share their requests, so that the search calibrates on them once.
    """
    tokenizer = Tokenizer(model.path)
    tokens = long_text(tokenizer)
    for cell in [CELLS[-1], CELLS[0], *CELLS[1:-1]]:
        if only and cell.name not in only:
            continue
        with tempfile.TemporaryDirectory() as directory:
            load, out = Path(directory) / "load.jsonl", Path(directory) / "out"
            asked = Cell(max(STREAMS), cell.prompt)
            rows = [
                {"id": f"{part}-{request.id}", "max_tokens": OUTPUT, "prompt": tokenizer.decode(request.prompt_tokens)}
                for part in range(-(-ASKED // asked.requests))
                for request in asked.load(tokens[part:]).requests
            ]
            load.write_text("".join(json.dumps(row) + "\n" for row in rows))
            command = [
                sys.executable,
                "-m",
                "pennyweight",
                "optimize",
                "demo",
                "-w",
                str(load),
                "-o",
                str(out),
                "--json",
                "--max-added-nats",
                WITHOUT_GATE,
                "--max-concurrency",
                str(cell.streams),
                "--rounds",
                "1",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            chosen = formats.read_service(out).only if (out / "deployment.json").exists() else None
            best = max(speeds[cell], key=speeds[cell].__getitem__)
            told = [line for line in done.stderr.splitlines() if line.startswith(("screen", "skip"))]
            fate = [line for line in told if f" {best} " in line]
            name = f"{chosen.engine} {chosen.scheme}" if chosen else "nothing"
            ratio = against(model, chosen, best, cell, tokens) if chosen and name != best else None
        say(
            part="winners",
            prompt=cell.prompt,
            streams=cell.streams,
            chosen=chosen.label if chosen else "nothing",
            table_s_best=best,
            what_became_of_it=fate[-1][:250] if fate else "",
            interleaved=ratio,
            share_of_best=round(speeds[cell].get(name, 0.0) / speeds[cell][best], 3),
        )


def against(model: Model, chosen: Deployment, best: str, cell: Cell, tokens: Sequence[int]) -> dict[str, Any]:
    """The chosen one against the table's best, both kept running, in turns: one run of each says little here."""
    others = built(model, cell.streams, (best.split()[1],))
    other = next(deployment for deployment in others if f"{deployment.engine} {deployment.scheme}" == best)
    arrivals = Arrivals("closed", max_concurrency=cell.streams)
    with ExitStack() as kept:
        first, second = (comparing.opened_once(partial(open_engine, d), kept) for d in (chosen, other))
        found = comparing.compare(first, second, cell.load(tokens), arrivals, rounds=AGAINST_ROUNDS, ignore_eos=True)
    return codec.plain(found)


def run(endpoint: Endpoint, cell: Cell, load: Workload) -> float:
    arrivals = Arrivals("closed", max_concurrency=cell.streams)
    return float(measure_speed(endpoint, load, arrivals, Sampling(0.0, 0, True))["output_throughput"])


def speculation(model: Model, rounds: int, only: Sequence[str], streams: int) -> None:
    """Repetitive work, with guesses and without; and whether the answers are the same."""
    for load in (editing(), traces.load("extract").take(12, 0)):
        for engine in only or catalogue.names():
            presets = catalogue.offer(engine).presets
            if catalogue.offer(engine).missing or "n-gram speculation" not in presets:
                continue
            scheme = CONVERTED.get(catalogue.offer(engine).model_format, model.scheme)
            made = build_scheme(model, engine, scheme)
            settings = {"max_num_seqs": streams, **PRECISE.get(engine, {})}
            plain = Deployment(engine, str(made.path), made.id, scheme, settings)
            for guesses in GUESSES:
                more = {**presets["n-gram speculation"], "num_speculative_tokens": guesses}
                try:
                    guessed_and_plain(
                        replace(plain, settings={**settings, **more}), plain, load, rounds, streams=streams
                    )
                except PennyweightError as error:
                    say(part="speculation", engine=engine, failed=str(error)[:300])


def editing() -> Workload:
    """Pieces of this very program, to be written again with one name changed."""
    files = sorted(Path(techniques.__file__).parent.glob("*.py"))
    codes = ["\n".join(file.read_text().splitlines()[:EDITED_LINES]) for file in files[:EDITED_FILES]]
    asked = (
        "Write this Python file again, with `settings` renamed to `options` and nothing else changed:\n\n```python\n"
    )
    made = [
        Request(
            id=f"edit-{n}",
            session=f"edit-{n}",
            max_tokens=EDITED_TOKENS,
            messages=({"role": "user", "content": f"{asked}{code}\n```"},),
        )
        for n, code in enumerate(codes)
    ]
    return Workload("editing", tuple(made))


def guessed_and_plain(guessed: Deployment, plain: Deployment, requests: Workload, rounds: int, *, streams: int) -> None:
    with ExitStack() as kept:
        first, second = (comparing.opened_once(partial(open_engine, d), kept) for d in (guessed, plain))
        load = requests.at_least(2 * streams)
        found = comparing.compare(first, second, load, Arrivals("closed", max_concurrency=streams), rounds=rounds)
        answers = [references(opener(kept), requests.requests, no_progress) for opener in (first, second)]
    same = np.mean([a.answer == b.answer for a, b in zip(*answers, strict=True)])
    say(
        part="speculation",
        load=requests.name,
        streams=streams,
        engine=plain.engine,
        scheme=plain.scheme,
        settings=guessed.settings,
        identical=round(float(same), 3),
        **codec.plain(found),
    )


def random_model(directory: Path, like: Model) -> Model:
    """Llama-3.2-1B's shape with random weights and another model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**LARGE_SHAPE, vocab_size=128_256, max_position_embeddings=4096)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    network.save_pretrained(directory)
    checkpoint.copy_tokenizer(like.path, directory)
    (directory / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": ["LlamaForCausalLM"]}))
    return checkpoint.open_model(str(directory))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engines", nargs="*", default=(), help="of the speculation; all by default")
    parser.add_argument("--streams", type=int, nargs="*", default=[1], help="of the speculation")
    parser.add_argument("--cells", nargs="*", default=(), help="such as long-32; of table and winners all by default")
    parser.add_argument("--schemes", nargs="*", default=(), help="of table and large; all by default")
    parser.add_argument("--table", type=Path, help="what an earlier run of it printed")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    model = techniques.apply(Dequantize(), checkpoint.open_model("demo"))
    speeds = told_before(arguments.table) if arguments.table else {}
    if "table" in parts and not speeds:
        speeds = table(model, chosen_cells(arguments.cells, CELLS), arguments.rounds, arguments.schemes)
    if "winners" in parts and speeds:
        winners(model, speeds, arguments.cells)
    if "large" in parts:
        cells = chosen_cells(arguments.cells, LARGE_CELLS)
        with tempfile.TemporaryDirectory() as directory:
            table(random_model(Path(directory), model), cells, 1, arguments.schemes)
    if "speculation" in parts:
        for streams in arguments.streams:
            speculation(model, max(2, arguments.rounds), arguments.engines, streams)


if __name__ == "__main__":
    main()
