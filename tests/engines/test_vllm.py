"""vLLM's settings, its command line and environment; what it answers is under tests/contracts."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import openai
import pytest

from pennyweight import checkpoint, engines, techniques, traces
from pennyweight.deployment import Deployment
from pennyweight.engines import vllm
from pennyweight.engines.vllm import VLLM
from pennyweight.errors import EngineRefused
from pennyweight.generation import joined_score
from pennyweight.install import requirements
from pennyweight.serve import open_engine
from pennyweight.techniques.quantize import Quantize
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import texts

CONFIG = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "vocab_size": 512,
    "max_position_embeddings": 8192,
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(vllm, "has_cuda", lambda: False)
    monkeypatch.setattr(vllm, "available_cores", lambda: 4)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"dtype": "int3"}, "bfloat16"),
        ({"kv_cache_dtype": "q8_0"}, "fp8"),
        ({"tensor_parallel_size": 0}, "1 or more"),
        ({"pipeline_parallel_size": 2, "enforce_eager": True}, "enforce_eager"),
        ({"tensor_parallel_size": 8}, "8 ranks"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], word: str, model: Path) -> None:
    with pytest.raises(EngineRefused, match=word):
        engines.make("vllm", settings)


def test_ranks_share_the_cores(model: Path) -> None:
    launch = VLLM(tensor_parallel_size=2).launch(model, "127.0.0.1", 1234, ("name", "alias"))
    assert launch.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0,1|2,3"
    alone = VLLM(num_threads=2).launch(model, "127.0.0.1", 1234, ("name", "alias"))
    assert alone.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"


def test_settings_reach_the_command_line(model: Path) -> None:
    asked = VLLM(speculative_method="ngram", prompt_lookup_max=2, max_model_len=512, enable_prefix_caching=True)
    words = asked.launch(model, "127.0.0.1", 1234, ("name", "alias")).arguments
    assert json.loads(words[words.index("--speculative-config") + 1]) == {
        "method": "ngram",
        "num_speculative_tokens": 4,
        "prompt_lookup_max": 2,
    }
    assert words[words.index("--max-model-len") + 1] == "512"
    assert "--enable-prefix-caching" in words and "--no-enable-prefix-caching" not in words


def test_a_cache_that_holds_not_one_request_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "free_memory", lambda: 2**24)
    with pytest.raises(EngineRefused, match="3276 tokens would fit"):
        VLLM().launch(model, "127.0.0.1", 1234, ("name", "alias"))


def test_requirements_leave_out_what_is_asked() -> None:
    site = Path(str(metadata.distribution("pytest").locate_file("")))
    every = requirements.requirements(site, "pytest", ())
    assert any(requirements.project(line) == "pluggy" for line in every)
    fewer = requirements.requirements(site, "pytest", ("pluggy",))
    assert len(fewer) == len(every) - 1
    assert not any("extra ==" in line for line in every)


@pytest.mark.parametrize("line", ["torch==2.13.0+cpu; platform_machine == 'x86_64'", "torch", "torch>=2", "Torch[x]"])
def test_the_project_of_a_requirement(line: str) -> None:
    assert requirements.project(line) == "torch"


@pytest.mark.slow
def test_ranks_answer_token_for_token_as_one_does(wide_checkpoint: Path) -> None:
    """In float32 on two cores: nothing but the order of sums may differ, and no near tie falls otherwise here."""
    if reason := VLLM.missing():
        pytest.skip(reason)
    model = checkpoint.open_model(str(wide_checkpoint))
    answers = {}
    ranks = {"one": {}, "tensor": {"tensor_parallel_size": 2}, "pipeline": {"pipeline_parallel_size": 2}}
    for name, parallel in ranks.items():
        settings = {"max_num_seqs": 2, "dtype": "float32", "max_model_len": 128, **parallel}
        with open_engine(Deployment("vllm", str(model.path), model.id, model.scheme, settings)) as endpoint:
            client = openai.OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", max_retries=0, timeout=120)
            made = [
                client.completions.create(
                    model="model",
                    prompt=[n + 3, n + 4, n + 5],
                    max_tokens=24,
                    temperature=0,
                    extra_body={"return_token_ids": True, "ignore_eos": True},
                )
                .choices[0]
                .model_dump()["token_ids"]
                for n in range(4)
            ]
        answers[name] = made
    assert answers["tensor"] == answers["one"]
    assert answers["pipeline"] == answers["one"]


@pytest.mark.slow
@pytest.mark.skipif(VLLM.missing() is not None, reason="pw engines install vllm was not run")
@pytest.mark.parametrize("scheme", ["W8A8", "W4A16"])
def test_packed_weights_say_nearly_what_the_whole_ones_do(scheme: str, wide_checkpoint: Path) -> None:
    calibration = tuple(texts(traces.load("chat").requests))
    model = checkpoint.open_model(str(wide_checkpoint))
    made = techniques.apply(Quantize(scheme, calibration=calibration), model)
    tokens = Tokenizer(wide_checkpoint).encode("Once upon a time there was a list of things to buy for the garden.")
    reference = joined_score(engines.make("transformers", {}).load(wide_checkpoint).score(tokens, 1)).logprobs
    with open_engine(Deployment("vllm", str(made.path), made.id, scheme, {"max_num_seqs": 4})) as endpoint:
        client = openai.OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", max_retries=0, timeout=60)
        told = client.completions.create(
            model="model", prompt=tokens, max_tokens=0, echo=True, logprobs=1, temperature=0
        )
    assert told.choices[0].logprobs is not None
    scored = (told.choices[0].logprobs.token_logprobs or [])[1:]
    assert np.mean(np.abs(np.subtract(reference, scored))) < {"W8A8": 0.5, "W4A16": 2.5}[scheme]
