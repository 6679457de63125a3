"""The proof of quality, held to its purpose: a planted bad artifact is rejected, a harmless one accepted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pennyweight import checkpoint, techniques, traces
from pennyweight.budget import Budget, Outcome
from pennyweight.deployment import Deployment
from pennyweight.evidence import Reference
from pennyweight.measure.proof import proof
from pennyweight.measure.proof.references import references
from pennyweight.model import Model
from pennyweight.serve import open_engine
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.workload import Workload

pytestmark = pytest.mark.slow

BUDGET = Budget(max_added_nats=0.02, max_tail_share=0.2, max_departures=0.2)  # what 21 sessions can prove


@pytest.fixture(scope="module")
def model() -> Model:
    return techniques.apply(Dequantize(), checkpoint.open_model("demo"))


@pytest.fixture(scope="module")
def workload() -> Workload:
    _, held_out = traces.load("chat").split()
    return replace(held_out, requests=tuple(replace(r, max_tokens=24) for r in held_out.take(24).requests))


@pytest.fixture(scope="module")
def held_against(model: Model, workload: Workload) -> Mapping[str, Reference]:
    with open_engine(deployment(model.path, "baseline")) as endpoint:
        return {r.request_id: r for r in references(endpoint, workload.requests)}


def deployment(path: Path, name: str) -> Deployment:
    return Deployment("transformers", str(path), name, "BF16", {})


def test_identical_weights_are_accepted(
    model: Model, workload: Workload, held_against: Mapping[str, Reference], tmp_path: Path
) -> None:
    shutil.copytree(model.path, tmp_path / "copy")
    with open_engine(deployment(tmp_path / "copy", "copy")) as endpoint:
        result = proof.evaluate(endpoint, workload, held_against, BUDGET)
    assert result.verdict.outcome is Outcome.ACCEPT, result.verdict.reason
    assert abs(result.measurement["added_nats"]) < 0.002
    assert result.measurement["agreement"] > 0.97


def test_a_layer_with_shuffled_weights_is_rejected(
    model: Model, workload: Workload, held_against: Mapping[str, Reference], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model.path, tmp_path / "bad")
    file = tmp_path / "bad" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.15.mlp.down_proj.weight"
    order = torch.randperm(tensors[name].shape[0], generator=torch.Generator().manual_seed(0))
    tensors[name] = tensors[name][order].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    with open_engine(deployment(tmp_path / "bad", "bad")) as endpoint:
        result = proof.evaluate(endpoint, workload, held_against, BUDGET)
    assert result.verdict.outcome is Outcome.REJECT, result.verdict.reason
    assert result.measurement["scored_nats"] > 0.02
