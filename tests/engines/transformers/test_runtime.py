from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

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


def answers(runtime: Any, prompts: list[list[int]], length: int) -> list[list[int]]:
    made: dict[str, list[int]] = {str(number): [] for number in range(len(prompts))}
    for number, prompt in enumerate(prompts):
        runtime.submit(Generation(str(number), prompt, max_tokens=length + number))
    for _ in range(200):
        for event in runtime.step():
            made[event.id].extend(event.tokens)
    return list(made.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("draft", [False, True])
def test_drafts_of_several_rows_change_no_token(kind: str, draft: bool, tmp_path: Path) -> None:
    """Up to the end of the context, which GPT-2 has a table for: no place beyond it may be looked up."""
    made: dict[str, Any] = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "gpt2":
        config: Any = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=40, **made)
    else:
        config = LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=40,
            **made,
        )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    prompts = [[5, 9, 5, 9, 5, 9, 5], [3, 3, 8, 3, 3, 8], [11, 4, 6, 11, 4, 6, 11], [7] * 6]
    plain = Transformers(max_num_seqs=4, device="cpu").load(tmp_path)
    more = (
        {"speculative_method": "draft_model", "draft_model": str(tmp_path)}
        if draft
        else {"speculative_method": "ngram"}
    )
    drafting: Any = Transformers(max_num_seqs=4, device="cpu", num_speculative_tokens=6, **more).load(tmp_path)
    drafting._pace.speculates = lambda rows: True
    verified: list[int] = []
    verify = drafting.verify

    def noted(fed: Any, lengths: Any) -> Any:
        verified.append(len(fed))
        return verify(fed, lengths)

    drafting.verify = noted
    assert answers(plain, prompts, 30) == answers(drafting, prompts, 30)
    assert verified and max(verified) > 1
