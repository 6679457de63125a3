"""Run by the Python of LiteRT's own environment: `litert_convert.py MODEL DIRECTORY LENGTH`.

Converts a checkpoint, float32 and with 8-bit weights, and lets LiteRT's runtime and transformers continue the same
prompt. The last line printed is JSON: agreement and tokens/s by file. It must not import pennyweight.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT, ANSWER = 12, 24  # tokens
MADE = {"model.tflite": "model.tflite", "model_quantized.tflite": "model_int8.tflite"}


def convert(model: Path, directory: Path, length: int) -> None:
    from litert_torch.generative.export_hf.export import export

    with tempfile.TemporaryDirectory(dir=directory) as work:
        export(
            str(model),
            work,
            prefill_lengths=[PROMPT, length // 2],
            cache_length=length,
            bundle_litert_lm=False,
            keep_temporary_files=True,
        )
        for theirs, ours in MADE.items():
            shutil.move(Path(work) / theirs, directory / ours)
    for file in [*model.glob("tokenizer*"), *model.glob("chat_template*"), model / "config.json"]:
        shutil.copy(file, directory)


def reference(model: Path, prompt: list[int]) -> list[int]:
    """transformers' greedy answer, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = torch.tensor([prompt])
    made = network.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False
    )
    answer: list[int] = made[0, len(prompt) :].tolist()
    return answer


def continued(file: Path, prompt: list[int]) -> tuple[list[int], float]:
    """LiteRT's greedy answer, one token at a time through its `decode` signature, and its tokens/s."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=2)
    runner = interpreter.get_signature_runner("decode")
    inputs: dict[str, Any] = runner.get_input_details()
    state = {name: np.zeros(tensor["shape"], tensor["dtype"]) for name, tensor in inputs.items() if "kv" in name}
    mask = np.full(inputs["mask"]["shape"], np.finfo(np.float32).min, np.float32)
    tokens, answer = list(prompt), []
    began = time.perf_counter()
    for place in range(len(prompt) + ANSWER - 1):
        mask[..., place] = 0
        made = runner(
            tokens=np.array([[tokens[place]]], np.int32), input_pos=np.array([place], np.int32), mask=mask, **state
        )
        state = {name: made[name] for name in state}
        if place >= len(prompt) - 1:
            answer.append(int(made["logits"][0, -1].argmax()))
            tokens.append(answer[-1])
    return answer, (len(tokens) - 1) / (time.perf_counter() - began)


def main() -> None:
    model, directory, length = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    convert(model, directory, length)
    prompt = list(range(3, 3 + PROMPT))
    wanted = reference(model, prompt)
    checked = {}
    for name in MADE.values():
        answer, pace = continued(directory / name, prompt)
        same = next((n for n, (a, b) in enumerate(zip(answer, wanted, strict=True)) if a != b), ANSWER)
        checked[name] = {"tokens_as_transformers": same, "of": ANSWER, "tokens_per_s": round(pace, 1)}
    print(json.dumps(checked))


if __name__ == "__main__":
    main()
