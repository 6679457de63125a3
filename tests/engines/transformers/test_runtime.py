from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight.engines.transformers.settings import Transformers
from pennyweight.generation import Generation


@pytest.mark.slow
def test_it_leaves_the_process_able_to_train(tiny_checkpoint: Path) -> None:
    import torch

    runtime = Transformers(max_num_seqs=1).load(tiny_checkpoint)
    runtime.submit(Generation(id="a", prompt=(1, 2, 3), max_tokens=2))
    while not any(event.finish for event in runtime.step()):
        pass
    assert torch.is_grad_enabled()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn"])
def test_a_smaller_cache_says_nearly_the_same(tiny_checkpoint: Path, kind: str) -> None:
    """Of several prompts at once, so that rows are filled, decoded and moved."""

    def first_tokens(**settings: str) -> list[float]:
        runtime = Transformers(max_num_seqs=3, dtype="float32", **settings).load(tiny_checkpoint)
        for n in range(3):
            prompt = tuple(range(5 + n, 45 + n))
            runtime.submit(Generation(id=str(n), prompt=prompt, max_tokens=6, top_logprobs=1))
        told: dict[str, list[float]] = {}
        for _ in range(12):
            for event in runtime.step():
                told.setdefault(event.id, []).extend(event.logprobs)
        assert all(len(logprobs) == 6 for logprobs in told.values())
        return [logprob for n in range(3) for logprob in told[str(n)][:2]]

    whole, small = first_tokens(), first_tokens(kv_cache_dtype=kind)
    assert small == pytest.approx(whole, abs=0.5) and small != whole
