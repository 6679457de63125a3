"""Conformance: a model is admitted by what was seen of its kind, and what was seen is held against the truth."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pennyweight import engines
from pennyweight.conform.cases import CASES, Case, with_wider_heads
from pennyweight.conform.table import page
from pennyweight.conform.tiny import TOKENS, Truth, make, tokenizer
from pennyweight.conform.trial import OpenAIServer, agreed, tried
from pennyweight.engines import conformance
from pennyweight.engines.conformance import read_table, refusal
from pennyweight.engines.transformers.settings import BATCHED, shares_a_batch
from pennyweight.errors import EngineError, EngineRefused
from pennyweight.features import features
from pennyweight.processes import free_port
from pennyweight.serve import process

SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "rope_theta": 100000,
}
LLAMA3 = SMOLLM2 | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
WINDOWED = {**SMOLLM2, "model_type": "mistral", "sliding_window": 4096}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_case_that_was_wrong_is_admitted(case: Case) -> None:
    config = {**case.whole_config, "model_type": case.model_type}
    for engine, column in read_table()["engines"].items():
        result = column["cases"][case.name]["result"]
        assert (refusal(engine, config) is None) == (result == "right"), (engine, result)


def test_the_config_that_a_case_is_saved_with_is_admitted_as_the_case_is() -> None:
    """Checkpoints spell out their architecture's defaults: every real Gemma was refused for its activation."""
    for case in CASES:
        saved = case.saved_config
        for engine, column in read_table()["engines"].items():
            if column["cases"][case.name]["result"] == "right":
                assert refusal(engine, saved) is None, (engine, case.name)


def test_every_case_was_tried_on_every_engine() -> None:
    names = [case.name for case in CASES]
    assert len(names) >= 40 and all(
        list(column["cases"]) == names or set(column["cases"]) == set(names)
        for column in read_table()["engines"].values()
    )


@pytest.mark.parametrize(
    ("engine", "config", "admitted"),
    [
        ("openvino", SMOLLM2, True),
        ("openvino", LLAMA3, False),
        ("llamacpp", LLAMA3, True),
        ("onnxruntime", LLAMA3, True),
        ("llamacpp", WINDOWED, False),
        ("llamacpp", {**WINDOWED, "sliding_window": None}, True),
        ("openvino", SMOLLM2 | {"attention_bias": True}, False),
        ("openvino", SMOLLM2 | {"model_type": "nobody"}, False),
        ("openvino", SMOLLM2 | {"hidden_act": "gelu_new"}, False),
        ("a stranger", LLAMA3, False),
    ],
)
def test_models_are_admitted_by_what_was_seen(engine: str, config: dict[str, Any], admitted: bool) -> None:
    assert (refusal(engine, config) is None) == admitted


PUBLISHED = {  # what the config.json of published checkpoints says, of what matters here
    "gemma-3-270m": {
        "model_type": "gemma3_text",
        "hidden_size": 640,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 512,
        "query_pre_attn_scalar": 256,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma-2-2b": {
        "model_type": "gemma2",
        "hidden_size": 2304,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "max_position_embeddings": 8192,
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss",
        "hidden_size": 2880,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "attention_bias": True,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0},
    },
    "SmolLM3-3B": {
        "model_type": "smollm3",
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    "Mistral-7B-v0.3": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": None,
        "max_position_embeddings": 32768,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_are_admitted_to_llamacpp(name: str) -> None:
    assert refusal("llamacpp", PUBLISHED[name]) is None


def test_on_another_machine_only_what_was_wrong_is_refused() -> None:
    assert refusal("openvino", LLAMA3, other_machine=True) is not None, "it was wrong"
    assert refusal("llamacpp", {**SMOLLM2, "model_type": "phi"}) is not None, "it did not load"
    assert refusal("llamacpp", {**SMOLLM2, "model_type": "phi"}, other_machine=True) is None
    assert refusal("llamacpp", {**SMOLLM2, "model_type": "nobody"}, other_machine=True) is None


def test_a_window_as_long_as_the_context_is_none() -> None:
    assert "window" not in features({**WINDOWED, "max_position_embeddings": 4096})
    assert "window" in features({**WINDOWED, "max_position_embeddings": 8192})


def test_the_refusal_of_an_engine_gives_the_evidence() -> None:
    with pytest.raises(EngineRefused, match=r"Llama 3\.1.*nats"):
        engines.engine_class("openvino").refuse_early(LLAMA3, "Q8_0")


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({}, {"grouped heads", "tied head"}),
        ({"num_key_value_heads": 1}, {"one key-value head", "tied head"}),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {"grouped heads", "tied head", "linear rope"}),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "yarn"},
                    "sliding_attention": {"rope_type": "default"},
                }
            },
            {"grouped heads", "tied head", "yarn rope"},
        ),
        ({"layer_types": ["full_attention", "sliding_attention"]}, {"grouped heads", "tied head", "window"}),
        ({"sliding_window": 4, "use_sliding_window": False}, {"grouped heads", "tied head"}),
        ({"head_dim": 128}, {"grouped heads", "tied head", "heads wider than the hidden size"}),
        ({"head_dim": 40}, {"grouped heads", "tied head", "odd head width"}),
        ({"partial_rotary_factor": 0.5}, {"grouped heads", "tied head", "partial rotary"}),
        ({"hidden_act": "gelu"}, {"grouped heads", "tied head", "activation gelu"}),
    ],
)
def test_features_are_what_a_config_asks_for(more: dict[str, Any], found: set[str]) -> None:
    assert features(SMOLLM2 | more) == found


def test_the_page_names_every_case_and_its_evidence() -> None:
    text = page(read_table(), "5")
    assert all(f"| {case.name} | {case.model_type} |" in text for case in CASES)
    assert "* Llama 3.1, openvino: scores differ" in text


def test_another_token_is_a_fault_unless_it_is_nearly_as_likely() -> None:
    rows = tuple((-1.0, -1.05, -4.0) for _ in range(TOKENS))
    truth = Truth((0,), (0,) * TOKENS, rows)
    assert agreed(truth, [0] * TOKENS, 0.1) == TOKENS
    assert agreed(truth, [0, 1, 2, 2], 0.1) == TOKENS
    assert agreed(truth, [0, 0, 2], 0.1) == 2
    assert agreed(truth, [0, 0], 0.1) == 2


def test_wider_heads_are_of_the_same_model_else() -> None:
    for case in CASES:
        narrow, wide = case.whole_config, with_wider_heads(case).whole_config
        shown = [features({**config, "model_type": case.model_type}) for config in (narrow, wide)]
        assert shown[0] == shown[1], case.name
        if "head_dim" in narrow:
            assert wide["head_dim"] >= narrow["head_dim"] + 16


def test_a_server_that_does_not_start_is_refused_with_its_own_error(tmp_path: Path) -> None:
    fails = "import sys; print('INFO Error: none'); raise ValueError('no kernel for heads of 16')"
    port = free_port("127.0.0.1")
    server = process.launch(
        "it", [sys.executable, "-c", fails], log=tmp_path / "log", host="127.0.0.1", port=port, environment={}
    )
    with pytest.raises(EngineError, match=r"^ValueError: no kernel for heads of 16$"):
        OpenAIServer(server)


ALONE = ("Llama 3.1", "Mistral, window", "Gemma 3", "GPT-OSS", "Falcon-H1", "Phi-3, longrope", "Mixtral")


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_the_reference_engine_is_right(name: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    truths = make(case, tmp_path / "model", tokenizer(tmp_path / "tokenizer"))
    engine = engines.make("transformers", {"max_num_seqs": 4, "num_threads": 1})
    assert tried(engine, tmp_path / "model", truths).result == "right"


@pytest.mark.slow
def test_a_wrong_model_is_seen(tmp_path: Path) -> None:
    """The trial itself can fail: weights of another seed, another base of the rope, a forgotten scaling."""
    case = next(case for case in CASES if case.name == "Llama 3.1")
    truths = make(case, tmp_path / "model", tokenizer(tmp_path / "tokenizer"))
    engine = engines.make("transformers", {"max_num_seqs": 4, "num_threads": 1})
    for change in ({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, {"rms_norm_eps": 0.1}):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(tmp_path / "model", tmp_path / "other")
        file = tmp_path / "other" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        assert tried(engine, tmp_path / "other", truths).result == "wrong"
    assert tried(engine, tmp_path / "nothing", truths).result == "refused"
    other = [replace(truth, answer=truth.answer[::-1]) for truth in truths]
    assert tried(engine, tmp_path / "model", other).result == "wrong"


def test_layers_that_keep_something_else_share_no_batch() -> None:
    assert shares_a_batch(LLAMA3) and shares_a_batch(SMOLLM2)
    for config in (
        WINDOWED,
        SMOLLM2 | {"rope_scaling": {"rope_type": "longrope"}},
        SMOLLM2 | {"layer_types": ["linear_attention"]},
        SMOLLM2 | {"model_type": "nobody"},
    ):
        assert not shares_a_batch(config)
    shown = {case.model_type for case in CASES}
    assert set(BATCHED) <= shown, "each was seen on the row loop"


def test_nothing_is_admitted_without_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "_kept", dict)
    assert "never tried" in (refusal("openvino", SMOLLM2) or "")
