"""Guessing ahead changes no greedy answer, alone and in company, and scoring works beside it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from pennyweight import checkpoint, engines, techniques
from pennyweight.deployment import Deployment
from pennyweight.serve import serve
from pennyweight.techniques.quantize import Quantize

pytestmark = pytest.mark.slow

PRECISE: dict[str, dict[str, Any]] = {
    "openvino": {"inference_precision": "f32", "kv_cache_dtype": "f32"},
    "llamacpp": {"kv_cache_dtype": "f32"},
}
PROMPTS = [[5, 6, 7, 5, 6, 7, 5], [40, 41, 42, 43], [9, 9, 9, 9]]


def answers(deployment: Deployment, *, together: bool = False) -> list[list[int]]:
    with serve(deployment) as endpoint:
        client = openai.OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", max_retries=0, timeout=60)

        def ask(prompt: list[int]) -> list[int]:
            made = client.completions.create(
                model="model", prompt=prompt, max_tokens=24, temperature=0,
                extra_body={"return_token_ids": True, "ignore_eos": True},
            )  # fmt: skip
            found: list[int] = made.choices[0].model_dump()["token_ids"]
            return found

        def score(prompt: list[int]) -> int:
            made = client.completions.create(
                model="model", prompt=prompt, max_tokens=0, echo=True, logprobs=1, temperature=0
            )
            logprobs = made.choices[0].logprobs
            assert logprobs is not None and logprobs.token_logprobs is not None
            return sum(p is not None for p in logprobs.token_logprobs)

        with ThreadPoolExecutor(len(PROMPTS) if together else 1) as pool:
            made = list(pool.map(ask, PROMPTS))
        assert score(PROMPTS[0]) == len(PROMPTS[0]) - 1
        return made


@pytest.mark.parametrize("engine", PRECISE)
def test_guesses_change_no_answer(engine: str, tiny_checkpoint: Path) -> None:
    if reason := engines.engine_class(engine).missing():
        pytest.skip(reason)
    made = techniques.apply(Quantize("F16"), checkpoint.open_model(str(tiny_checkpoint)))
    base = {"max_num_seqs": 4, **PRECISE[engine]}

    def deployment(**more: Any) -> Deployment:
        return Deployment(engine, str(made.path), made.id, "F16", {**base, **more})

    expected = answers(deployment())
    assert answers(deployment(speculative_method="ngram", prompt_lookup_max=2)) == expected
    assert answers(deployment(speculative_method="draft_model", draft_model=str(made.path))) == expected
    assert answers(deployment(speculative_method="ngram"), together=True) == expected
