"""One contract over every technique that changes a model's shape, for every family, with tied and untied embeddings:
the result is a standard checkpoint, and stock engines give what transformers gives."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pennyweight import checkpoint, engines, traces
from pennyweight.engines.base import Backend
from pennyweight.generation import Score, joined_score
from pennyweight.model import Model
from pennyweight.techniques.base import Technique
from pennyweight.techniques.depth import Depth
from pennyweight.techniques.key_value_heads import KeyValueHeads
from pennyweight.techniques.layout import changeable
from pennyweight.techniques.quantize import Quantize
from pennyweight.techniques.sparsity import Sparsity
from pennyweight.techniques.vocabulary import Vocabulary
from pennyweight.techniques.width import Width
from pennyweight.tokenizer import Tokenizer
from pennyweight.weights import Weights
from pennyweight.workload import texts

CONTEXT, VOCABULARY = 512, 512  # as the shared tokenizer has them
TEXTS = tuple(texts(traces.load("chat").requests))[:40]
SENTENCE = "Once upon a time there was a list of things to buy for the garden, and then it rained."
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")  # others: tests/techniques/test_layout.py
GEMMA = "gemma3_text as published"  # its pattern of blocks, which one more or less breaks
STEPS: dict[str, Technique] = {
    "depth": Depth(2, "influence", TEXTS),
    "depth by loss": Depth(3, "loss", TEXTS),
    "neurons": Width(intermediate=96, calibration=TEXTS),
    "groups": Width(groups=1, calibration=TEXTS),
    "channels": Width(hidden=32, calibration=TEXTS),
    "all widths": Width(64, 1, 32, calibration=TEXTS),
    "wanda": Sparsity("50%", "wanda", TEXTS),
    "2:4": Sparsity("2:4", "magnitude"),
    "vocabulary": Vocabulary(448, TEXTS[:8] * 4),
    "key-value heads": KeyValueHeads(1),
}


def family_config(family: str, *, tied: bool) -> Any:
    from transformers import AutoConfig

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "initializer_range": 0.2,
    }
    if family == "gemma3_text":  # a pattern that repeats every second layer, so that a shorter one can
        sizes |= {
            "sliding_window": 64,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        }
    if family == GEMMA:
        sizes |= {
            "sliding_window": 64,
            "query_pre_attn_scalar": 16,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        }
        family = "gemma3_text"
    return AutoConfig.for_model(family, **sizes)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path) -> Any:
    """Makes a tiny random checkpoint of a family, once."""
    made: dict[tuple[str, bool], Model] = {}

    def make(family: str, *, tied: bool = True) -> Model:
        import torch
        from transformers import AutoModelForCausalLM

        if (family, tied) not in made:
            directory = tmp_path_factory.mktemp("families") / f"tiny-{family}-{tied}"
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(family_config(family, tied=tied))
            with torch.no_grad():  # norms of ones would hide a wrong one
                for name, parameter in model.named_parameters():
                    if "norm" in name:
                        parameter.add_(0.2 * torch.randn_like(parameter))
                    if "bias" in name:
                        parameter.add_(0.2 * torch.randn_like(parameter))
            model.save_pretrained(directory)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copyfile(tokenizer_directory / name, directory / name)
            made[(family, tied)] = checkpoint.open_model(str(directory))
        return made[(family, tied)]

    return make


STOCK = [("llama", True), ("qwen2", True), ("qwen3", True), ("llama", False), ("gemma3_text", True), (GEMMA, True)]
CASES = [(family, tied) for family in FAMILIES for tied in (True, False) if tied or family != "gemma3_text"]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "tied"), CASES)
@pytest.mark.parametrize("name", STEPS)
def test_the_result_is_a_standard_checkpoint(name: str, family: str, tied: bool, build: Any) -> None:
    """transformers finds every tensor and no other, in the shapes that config.json says."""
    from transformers import AutoModelForCausalLM

    made = apply(STEPS[name], build(family, tied=tied))
    model, report = AutoModelForCausalLM.from_pretrained(made.path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.config.tie_word_embeddings is tied
    shape = changeable(made.config)
    shapes = Weights(made.path).shapes
    assert sum(np.prod(s) for s in shapes.values() if len(s) == 2) == shape.parameters
    assert checkpoint.open_model(str(made.path)).id == made.id
    assert len(scores("transformers", made, SENTENCE)[0]) > 10


@pytest.mark.slow
@pytest.mark.parametrize(("family", "tied"), STOCK)
@pytest.mark.parametrize("name", ["depth", "all widths", "vocabulary", "key-value heads"])
@pytest.mark.parametrize(("engine", "scheme"), [("openvino", "F16"), ("onnxruntime", "FP32"), ("llamacpp", "F16")])
def test_stock_engines_agree_with_transformers(
    engine: str, scheme: str, name: str, family: str, tied: bool, build: Any
) -> None:
    made = build(family, tied=tied)
    if family == GEMMA and name == "depth":
        pytest.skip("no two blocks of it repeat the pattern")
    made = apply(STEPS[name], made)
    reason = refusal(engine, scheme, made)
    if reason:
        pytest.skip(reason)
    converted = apply(Quantize(scheme), made)
    expected, first = scores("transformers", made, SENTENCE)
    found, top = scores(engine, converted, SENTENCE)
    assert np.mean(np.abs(np.subtract(expected, found))) < 0.1
    assert np.mean([a == b for a, b in zip(first, top, strict=True)]) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "scheme"), [("openvino", "Q8_0"), ("onnxruntime", "FP32")])
def test_techniques_compose(engine: str, scheme: str, build: Any) -> None:
    """Blocks, heads, neurons and vocabulary, one after the other, then an engine."""
    made = build("llama")
    for name in ("depth by loss", "all widths", "vocabulary"):
        made = apply(STEPS[name], made)
    shape = changeable(made.config)
    assert (shape.layers, shape.hidden_size, shape.num_key_value_heads, shape.vocabulary) == (3, 32, 1, 448)
    assert [step.technique for step in made.lineage.steps] == ["depth", "width", "vocabulary"]
    expected, first = scores("transformers", made, SENTENCE)
    found, top = scores(engine, apply(Quantize(scheme), made), SENTENCE)
    assert np.mean(np.abs(np.subtract(expected, found))) < 0.2
    assert np.mean([a == b for a, b in zip(first, top, strict=True)]) >= 0.9


def apply(technique: Technique, model: Model) -> Model:
    """As `techniques.apply`, in this process: a job each would import torch a hundred times."""
    kind = technique.result_kind(model)

    def make(directory: Path) -> None:
        technique.build(model.path, directory)

    return checkpoint.build(model.lineage.then(technique.step()), *kind, make)


def refusal(engine: str, scheme: str, model: Model) -> str | None:
    from pennyweight.serve import catalogue

    return catalogue.refusal(engine, scheme, model.config)


def scores(engine: str, model: Model, text: str) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Log-probability of each token, and the greedy choice in its place."""
    exact = {"inference_precision": "f32"} if engine == "openvino" else {}  # its default on some CPUs is bfloat16
    made, tokens = engines.make(engine, exact), Tokenizer(model.path).encode(text)
    if backend := made.backend(model.path):
        scored = asyncio.run(asked(backend, tokens))
    else:
        runtime = made.load(model.path)
        scored = joined_score(runtime.score(tokens, 1))
        runtime.close()
    return tuple(scored.logprobs), tuple(tops[0][0] for tops in scored.tops)


async def asked(backend: Backend, tokens: Sequence[int]) -> Score:
    try:
        await backend.start(lambda _: None, lambda _: None)
        return await backend.score(tokens, 1)
    finally:
        await backend.close()
