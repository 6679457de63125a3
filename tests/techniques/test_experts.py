"""Experts that no token reaches are the ones that go, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pennyweight.errors import UsageError
from pennyweight.model import Lineage, Model
from pennyweight.techniques.experts import Experts, best, with_experts, without
from tests.tiny_models import TEXT, logits, made_case

MIXTURES = ("Mixtral", "Qwen3-MoE", "GPT-OSS", "DeepSeek-V3", "Granite-MoE")
UNUSED = 1
ROUTERS = ("mlp.gate.weight", "block_sparse_moe.gate.weight", "router.weight", "router.layer.weight")
WRITERS = ("o_proj", "down_proj", "w2", "output_linear")


def starve(tensors: dict[str, Any]) -> None:
    """Channel 0 is the same for every token, and the router's row of one expert abhors it."""
    for name, tensor in tensors.items():
        if "embed_tokens" in name:
            tensor[:, 0] = 3.0
        elif name.endswith(ROUTERS):
            tensor[:, 0] = 0
            tensor[UNUSED] = 0
            tensor[UNUSED, 0] = -100.0
        elif any(writer in name for writer in WRITERS):
            last = tensor.shape[-1] == 64 and not (tensor.dim() == 2 and tensor.shape[0] == 64)
            tensor.transpose(0, -1 if last else -2 if tensor.dim() > 1 else 0)[0] = 0


@pytest.mark.slow
@pytest.mark.parametrize("case", MIXTURES)
def test_an_expert_that_nobody_asks_is_dropped_without_a_trace(case: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, target = made_case(case, tmp_path), tmp_path / "target"
    file = model.path / "model.safetensors"
    tensors = load_file(file)
    starve(tensors)
    save_file(tensors, file, {"format": "pt"})
    technique = Experts(3, calibration=TEXT)
    assert technique.result_kind(model) == ("huggingface", "F32")
    target.mkdir()
    technique.build(model.path, target)
    assert Model.config_of(target).get("num_local_experts", 3) == 3
    assert float((logits(model.path) - logits(target)).abs().max()) < 1e-4


def test_a_tensor_follows_its_expert() -> None:
    import torch

    kept, row = torch.tensor([0, 2]), torch.arange(6).reshape(3, 2)
    assert without("b.experts.2.w1.weight", row, kept, 3)[0][0] == "b.experts.1.w1.weight"
    assert without("b.experts.1.w1.weight", row, kept, 3) == []
    assert without("b.mlp.gate.weight", row, kept, 3)[0][1].tolist() == [[0, 1], [4, 5]]
    assert without("b.mlp.shared_experts.up_proj.weight", row, kept, 3)[0][1] is row
    assert without("b.self_attn.q_proj.weight", row, kept, 3)[0][1] is row
    bias = torch.arange(3)[None]
    assert without("b.moe_statics.e_score_correction_bias", bias, kept, 3)[0][1].tolist() == [[0, 2]]


def test_each_group_keeps_as_many() -> None:
    import torch

    assert best(torch.tensor([9.0, 8.0, 7.0, 1.0, 3.0, 2.0]), 4, 2).tolist() == [0, 1, 4, 5]


def test_configs_count_experts_under_their_own_name() -> None:
    assert with_experts({"n_routed_experts": 8, "n_shared_experts": 1}, 6) == {
        "n_routed_experts": 6,
        "n_shared_experts": 1,
    }


CONFIG = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 480,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


@pytest.mark.parametrize(
    ("more", "technique", "reason"),
    [
        ({"num_local_experts": 0}, Experts(4, calibration=("x",)), "no experts to drop"),
        ({}, Experts(8, calibration=("x",)), "has 8 and each token goes to 2"),
        ({}, Experts(1, calibration=("x",)), "has 8 and each token goes to 2"),
        ({"n_group": 4}, Experts(6, calibration=("x",)), "multiple of 4"),
        ({}, Experts(4), "needs text"),
        ({"n_group": 4}, Experts(4, calibration=("x",)), "keep 8 or more"),
        ({"num_experts_per_tok": None, "moe_topk": [3, 4]}, Experts(3, calibration=("x",)), "each token goes to 4"),
    ],
)
def test_what_cannot_be_dropped_is_refused(
    more: dict[str, Any], technique: Experts, reason: str, tmp_path: Path
) -> None:
    import json

    (tmp_path / "config.json").write_text(json.dumps(CONFIG | more))
    with pytest.raises(UsageError, match=reason):
        technique.result_kind(Model(tmp_path, "huggingface", "F32", Lineage("x", {})))
