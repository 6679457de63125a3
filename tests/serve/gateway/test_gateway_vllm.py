"""What vLLM has more than our engines, through the gateway."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openai
import pytest

from pennyweight import checkpoint, formats
from pennyweight.deployment import Deployment
from pennyweight.engines.vllm import VLLM
from tests.serve.gateway.gateways import running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VLLM.missing() is not None, reason="pw engines install vllm was not run"),
]


def test_embeddings(wide_checkpoint: Path, tmp_path: Path) -> None:
    model = checkpoint.open_model(str(wide_checkpoint))
    settings = {"max_num_seqs": 4, "runner": "pooling"}
    formats.write_deployment(tmp_path, Deployment("vllm", str(model.path), model.id, model.scheme, settings))
    with running(tmp_path) as gateway:
        client = gateway.client()
        made = client.embeddings.create(model="model", input=["a cat", "a cat", "the sea"], encoding_format="float")
        first, same, other = (np.array(row.embedding) for row in made.data)
        assert len(first) == model.config["hidden_size"] and first @ same > 0.999 > first @ other
        with pytest.raises(openai.APIStatusError):
            client.completions.create(model="model", prompt="a", max_tokens=4)
        assert client.embeddings.create(model="model", input="again").data


def test_answers_follow_a_schema(wide_checkpoint: Path, tmp_path: Path) -> None:
    model = checkpoint.open_model(str(wide_checkpoint))
    formats.write_deployment(tmp_path, Deployment("vllm", str(model.path), model.id, model.scheme, {"max_num_seqs": 4}))
    with running(tmp_path) as gateway:
        client = gateway.client()
        asked = {"type": "json_schema", "name": "colour", "schema": {"enum": ["red", "green"]}}
        made = client.responses.create(model="model", input="a colour", max_output_tokens=16, text={"format": asked})
        assert made.output_text in ('"red"', '"green"')
        with pytest.raises(openai.BadRequestError, match="gives no embeddings"):
            client.embeddings.create(model="model", input="a")
