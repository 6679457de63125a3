"""The session: logits where they are asked for, whatever the graph does with them after the head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pennyweight import checkpoint, engines, techniques
from pennyweight.engines.onnxruntime import ONNXRuntime
from pennyweight.generation import joined_score
from pennyweight.techniques.quantize import Quantize

TOKENS = list(range(5, 45))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def capped_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma 2: norms before and after, attention that slides, and a cap on the logits behind the head."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=json.loads((tiny_checkpoint / "config.json").read_text())["vocab_size"],
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        sliding_window=1024,
        final_logit_softcapping=5.0,
        query_pre_attn_scalar=16,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    directory = tmp_path_factory.mktemp("models") / "tiny-gemma2"
    Gemma2ForCausalLM(config).save_pretrained(directory)
    checkpoint.copy_tokenizer(tiny_checkpoint, directory)
    return directory


@pytest.mark.parametrize("checkpoint_name", ["tiny_checkpoint", "capped_checkpoint"])
@pytest.mark.parametrize("scheme", ["FP32", "INT8"])
def test_the_last_logits_of_a_prompt_are_those_of_all_its_positions(
    scheme: str, checkpoint_name: str, request: pytest.FixtureRequest
) -> None:
    model = techniques.apply(Quantize(scheme), checkpoint.open_model(str(request.getfixturevalue(checkpoint_name))))
    runtime: Any = ONNXRuntime(max_num_seqs=2).load(model.path)
    every = runtime.extend(0, TOKENS, 0, every=True)
    last = runtime.extend(0, TOKENS, 0, every=False)
    assert (len(every), len(last)) == (len(TOKENS), 1)
    np.testing.assert_allclose(last[0], every[-1], atol=1e-4)


def test_a_cap_behind_the_head_is_kept(capped_checkpoint: Path) -> None:
    import torch
    from transformers import Gemma2ForCausalLM

    network = Gemma2ForCausalLM.from_pretrained(capped_checkpoint, attn_implementation="eager")
    with torch.inference_mode():
        logprobs = network(torch.tensor([TOKENS])).logits[0].log_softmax(-1)
    wanted = logprobs[torch.arange(len(TOKENS) - 1), torch.tensor(TOKENS[1:])]
    made = techniques.apply(Quantize("FP32"), checkpoint.open_model(str(capped_checkpoint)))
    found = joined_score(engines.make("onnxruntime", {}).load(made.path).score(TOKENS, 1)).logprobs
    np.testing.assert_allclose(found, wanted.numpy(), atol=0.01)
