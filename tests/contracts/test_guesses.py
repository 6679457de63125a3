"""Guessing ahead changes no greedy answer, alone and in company, and scoring works beside it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from pennyweight import checkpoint, engines, techniques
from pennyweight.deployment import Deployment
from pennyweight.serve import open_engine
from pennyweight.techniques.quantize import Quantize

pytestmark = pytest.mark.slow

PRECISE: dict[str, tuple[str, dict[str, Any]]] = {
    "openvino": ("F16", {"inference_precision": "f32", "kv_cache_dtype": "f32"}),
    "llamacpp": ("F16", {"kv_cache_dtype": "f32"}),
    "onnxruntime": ("FP32", {}),
    "transformers": ("F32", {"dtype": "float32"}),
}
PROMPTS = [[5, 6, 7, 5, 6, 7, 5], [40, 41, 42, 43], [9, 9, 9, 9]]


def answers(
    deployment: Deployment, *, prompts: Sequence[list[int]] = PROMPTS, together: bool = False
) -> list[list[int]]:
    with open_engine(deployment) as endpoint:
        client = openai.OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", max_retries=0, timeout=60)

        def ask(prompt: list[int]) -> list[int]:
            made = client.completions.create(
                model="model",
                prompt=prompt,
                max_tokens=24,
                temperature=0,
                extra_body={"return_token_ids": True, "ignore_eos": True},
            )
            found: list[int] = made.choices[0].model_dump()["token_ids"]
            return found

        def score(prompt: list[int]) -> int:
            made = client.completions.create(
                model="model", prompt=prompt, max_tokens=0, echo=True, logprobs=1, temperature=0
            )
            logprobs = made.choices[0].logprobs
            assert logprobs is not None and logprobs.token_logprobs is not None
            return sum(p is not None for p in logprobs.token_logprobs)

        with ThreadPoolExecutor(len(prompts) if together else 1) as pool:
            made = list(pool.map(ask, prompts))
        assert score(prompts[0]) == len(prompts[0]) - 1
        return made


@pytest.mark.parametrize("engine", PRECISE)
def test_guesses_change_no_answer(engine: str, tiny_checkpoint: Path) -> None:
    if reason := engines.engine_class(engine).missing():
        pytest.skip(reason)
    scheme, precise = PRECISE[engine]
    model = checkpoint.open_model(str(tiny_checkpoint))
    made = model if scheme == model.scheme else techniques.apply(Quantize(scheme), model)
    base = {"max_num_seqs": 4, **precise}

    def deployment(**more: Any) -> Deployment:
        return Deployment(engine, str(made.path), made.id, scheme, {**base, **more})

    expected = answers(deployment())
    assert answers(deployment(speculative_method="ngram", prompt_lookup_max=2)) == expected
    assert answers(deployment(speculative_method="ngram"), together=True) == expected
    if "draft model" in engines.engine_class(engine).presets:
        assert answers(deployment(speculative_method="draft_model", draft_model=str(made.path))) == expected


@pytest.mark.parametrize("engine", ["onnxruntime", "transformers"])
def test_pieces_and_kept_beginnings_change_no_answer(engine: str, tiny_checkpoint: Path) -> None:
    scheme, precise = PRECISE[engine]
    model = checkpoint.open_model(str(tiny_checkpoint))
    made = model if scheme == model.scheme else techniques.apply(Quantize(scheme), model)
    prompts = [[*range(5, 45), 7, *range(n)] for n in (1, 4, 1, 9)]

    def deployment(**more: Any) -> Deployment:
        return Deployment(engine, str(made.path), made.id, scheme, {"max_num_seqs": 3, **precise, **more})

    expected = answers(deployment(), prompts=prompts)
    presets = {"enable_prefix_caching": True, "max_num_batched_tokens": 16}
    assert answers(deployment(**presets), prompts=prompts) == expected
    assert answers(deployment(**presets), prompts=prompts, together=True) == expected
