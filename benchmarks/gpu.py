"""The transformers engine's continuous batching on a CUDA GPU: random-weight models of 1B and 8B shapes at 1, 32 and
128 streams, with the share of the measured bandwidth and arithmetic limits, and transformers' own continuous batching
beside it. Needs nothing but this folder, torch and transformers; prints one line of JSON per result.

    python -m benchmarks.gpu [--shapes 1b,8b] [--streams 1,32,128] [--peer] [--models DIRECTORY]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from pennyweight.engines.transformers.settings import Transformers
from pennyweight.generation import Generation

SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
VOCABULARY, PROMPT, OUTPUT = 128_256, 256, 64


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def seconds(work: Any, times: int) -> float:
    """Of one call, with the queue of the device empty before and after."""
    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def limits() -> tuple[float, float]:
    """Bytes/s read from memory, and bf16 operations/s."""
    large = torch.empty(2**30, dtype=torch.bfloat16, device="cuda")
    bandwidth = 2 * large.nbytes / seconds(lambda: large.add_(1), 20)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return bandwidth, 2 * 8192**3 / seconds(lambda: a @ b, 20)


def made(shape: str, directory: Path) -> None:
    config = LlamaConfig(**SHAPES[shape], vocab_size=VOCABULARY, max_position_embeddings=4096, tie_word_embeddings=True)
    with torch.device("cuda"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    network.save_pretrained(directory)


def run(directory: Path, streams: int) -> tuple[float, float]:
    """Seconds of all prompts, and of one decoding step of all streams."""
    runtime = Transformers(max_num_seqs=streams, device="cuda").load(directory)

    def read() -> None:
        runtime.submit(Generation(id="read", prompt=prompt_of(0), max_tokens=1))
        assert runtime.step()[0].finish

    read()
    alone = seconds(read, 5)
    for number in range(streams):
        runtime.submit(Generation(id=str(number), prompt=prompt_of(number), max_tokens=OUTPUT + streams))
    for _ in range(streams):  # a step admits one prompt, and decodes for all that run
        runtime.step()
    step = seconds(runtime.step, OUTPUT // 2)
    runtime.close()
    torch.cuda.empty_cache()
    return alone * streams, step


def prompt_of(number: int) -> list[int]:
    return [(number * 7919 + place * 104_729) % VOCABULARY for place in range(PROMPT)]


def alone_as_beside_others(directory: Path, streams: int) -> float:
    """The share of requests whose first 8 tokens are the same alone and in a batch. (Ties of bfloat16 fall
    differently in a matrix product of another shape.)"""
    runtime = Transformers(max_num_seqs=streams, device="cuda").load(directory)

    def answers(numbers: list[int]) -> list[list[int]]:
        made: dict[str, list[int]] = {str(number): [] for number in numbers}
        for number in numbers:
            runtime.submit(Generation(id=str(number), prompt=prompt_of(number)[: 20 + number], max_tokens=8))
        while any(len(tokens) < 8 for tokens in made.values()):
            for event in runtime.step():
                made[event.id].extend(event.tokens)
        return list(made.values())

    together = answers(list(range(streams)))
    alone = [answers([number])[0] for number in range(streams)]
    runtime.close()
    return sum(a == b for a, b in zip(together, alone, strict=True)) / streams


def peer(directory: Path, streams: int) -> float:
    """Tokens/s of transformers' own continuous batching, over prompts and answers, by its defaults."""
    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).cuda()
    prompts = [prompt_of(number) for number in range(streams)]
    rates = []
    for _ in range(2):  # the first one warms up
        took = [timed_answers(network, prompts, length) for length in (1, 1 + OUTPUT)]
        rates.append(streams * OUTPUT / (took[1] - took[0]))
    del network
    torch.cuda.empty_cache()
    return rates[-1]


def timed_answers(network: Any, prompts: list[list[int]], length: int) -> float:
    wanted = GenerationConfig(max_new_tokens=length, min_new_tokens=length, do_sample=False, eos_token_id=-1)
    began = time.perf_counter()
    made = network.generate_batch(inputs=prompts, generation_config=wanted, progress_bar=False)
    assert all(len(answer.generated_tokens) == length for answer in made.values())
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", default="1b,8b")
    parser.add_argument("--streams", default="1,32,128")
    parser.add_argument("--peer", action="store_true", help="transformers' own continuous batching too")
    parser.add_argument("--models", type=Path, help="where the models are kept for the next run")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("No CUDA GPU: nothing was run.")
    bandwidth, rate = limits()
    name = torch.cuda.get_device_name()
    say(device=name, terabytes_per_s=round(bandwidth / 1e12, 2), bf16_teraflops=round(rate / 1e12))
    for shape in arguments.shapes.split(","):
        with tempfile.TemporaryDirectory() as passing:
            directory = (arguments.models or Path(passing)) / shape
            if not (directory / "config.json").exists():
                made(shape, directory)
            say(shape=shape, alone_as_beside_others=alone_as_beside_others(directory, 16))
            weights = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
            for streams in map(int, arguments.streams.split(",")):
                prompts, step = run(directory, streams)
                best_step = max(weights / bandwidth, weights * streams / rate)
                say(
                    shape=shape,
                    scheme="BF16",
                    streams=streams,
                    decode_tokens_per_s=round(streams / step),
                    share_of_limit=round(best_step / step, 3),
                    prefill_tokens_per_s=round(streams * PROMPT / prompts),
                    prefill_share=round(weights * PROMPT * streams / rate / prompts, 3),
                )
                if arguments.peer:
                    say(shape=shape, streams=streams, peer_decode_tokens_per_s=round(peer(directory, streams)))


if __name__ == "__main__":
    main()
