"""The transformers engine's continuous batching on a CUDA GPU: random-weight models of 1B and 8B shapes at 1, 32 and
128 streams, with the share of the measured bandwidth and arithmetic limits. Needs nothing but this folder, torch and
transformers; prints one line of JSON per result.

    python -m benchmarks.gpu [--shapes 1b,8b] [--streams 1,32,128]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pennyweight.engines.transformers.settings import Transformers
from pennyweight.generation import Generation, joined_score

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
    for number in range(streams + 1):  # the first one warms up
        prompt = [(number * 7919 + place * 104_729) % VOCABULARY for place in range(PROMPT)]
        runtime.submit(Generation(id=str(number), prompt=prompt, max_tokens=OUTPUT + streams))
        if number == 0:
            runtime.step()
            runtime.cancel("0")
            alone = seconds(lambda p=prompt: joined_score(runtime.score(p, PROMPT - 1)), 3)  # a prompt, read alone
    for _ in range(streams):  # a step admits one prompt, and decodes for all that run
        runtime.step()
    step = seconds(runtime.step, OUTPUT // 2)
    runtime.close()
    torch.cuda.empty_cache()
    return alone * streams, step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", default="1b,8b")
    parser.add_argument("--streams", default="1,32,128")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("No CUDA GPU: nothing was run.")
    bandwidth, rate = limits()
    name = torch.cuda.get_device_name()
    say(device=name, terabytes_per_s=round(bandwidth / 1e12, 2), bf16_teraflops=round(rate / 1e12))
    for shape in arguments.shapes.split(","):
        with tempfile.TemporaryDirectory() as directory:
            made(shape, Path(directory))
            weights = sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))
            for streams in map(int, arguments.streams.split(",")):
                prompts, step = run(Path(directory), streams)
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


if __name__ == "__main__":
    main()
