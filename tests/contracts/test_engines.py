"""One contract over every engine, on a tiny real checkpoint, through the worker and the real OpenAI client."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from pennyweight import checkpoint, engines, techniques, traces
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineRefused
from pennyweight.schemes import TABLE
from pennyweight.serve import Endpoint, open_engine
from pennyweight.techniques.quantize import Quantize
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import texts

pytestmark = pytest.mark.slow

SERVED = [
    ("scripted", "F32"),
    ("transformers", "F32"),
    ("openvino", "F16"),
    ("openvino", "Q8_0"),
    ("onnxruntime", "FP32"),
    ("onnxruntime", "INT8"),
    ("onnxruntime", "INT8_STATIC"),
    ("llamacpp", "F16"),
    ("llamacpp", "Q8_0"),
    ("vllm", "F32"),
    ("vllm", "W8A8"),
    ("vllm", "W4A16"),
]
# A new engine is tested with its first scheme until it has rows of its own above.
SERVED += [
    (name, engines.engine_class(name).schemes[0])
    for name in engines.ENGINES
    if name != "remote" and name not in dict(SERVED)
]
PROMPTS = ["Write a short poem about rain", "hi", "How do I sort a list in Python? Explain it step by step please."]


@pytest.fixture(scope="module", params=SERVED, ids=[f"{engine}-{scheme}" for engine, scheme in SERVED])
def deployment(request: pytest.FixtureRequest, tiny_checkpoint: Path, wide_checkpoint: Path) -> Deployment:
    engine, scheme = request.param
    if (reason := engines.engine_class(engine).missing()) and engines.engine_class(engine).recipe:
        pytest.skip(reason)
    model = checkpoint.open_model(str(wide_checkpoint if engine == "vllm" else tiny_checkpoint))
    if scheme != model.scheme:
        calibration = tuple(texts(traces.load("chat").requests)) if TABLE[scheme].calibrated else ()
        model = techniques.apply(Quantize(scheme, calibration=calibration), model)
    return Deployment(engine, str(model.path), model.id, scheme, {"max_num_seqs": 8})


@pytest.fixture(scope="module")
def endpoint(deployment: Deployment) -> Iterator[Endpoint]:
    with open_engine(deployment) as running:
        yield running


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", max_retries=0, timeout=60)


def answer(client: openai.OpenAI, prompt: str, **more: object) -> str:
    settings = {"max_tokens": 16, "temperature": 0, **more}
    return client.completions.create(model="model", prompt=prompt, **settings).choices[0].text  # type: ignore[call-overload,no-any-return]


def test_it_names_its_model_and_context(client: openai.OpenAI) -> None:
    card = client.models.list().data[0]
    assert card.id == "model"
    assert card.model_dump()["max_model_len"] == 512


def test_chat_keeps_max_tokens_and_counts_them(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="model",
        messages=[{"role": "user", "content": PROMPTS[0]}],
        max_tokens=9,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert reply.usage is not None and reply.usage.completion_tokens == 9
    assert reply.choices[0].finish_reason == "length"


def test_the_stream_adds_up_to_the_whole_answer(client: openai.OpenAI) -> None:
    whole = answer(client, PROMPTS[0])
    chunks = list(
        client.completions.create(
            model="model",
            prompt=PROMPTS[0],
            max_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens <= 16


def test_greedy_answers_do_not_depend_on_the_company(client: openai.OpenAI) -> None:
    alone = [answer(client, prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda prompt: answer(client, prompt), PROMPTS * 4))
    assert together == alone * 4


def test_more_requests_than_rows_all_finish(client: openai.OpenAI) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda i: answer(client, f"{i} {PROMPTS[0]}"), range(20)))
    assert len(answers) == 20


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    whole = answer(client, PROMPTS[0], max_tokens=24)
    middle = whole[len(whole) // 2 :][:3]
    cut = answer(client, PROMPTS[0], max_tokens=24, stop=[middle])
    assert cut == whole[: whole.index(middle)]


def test_the_same_seed_gives_the_same_sample(client: openai.OpenAI) -> None:
    samples = [answer(client, PROMPTS[0], temperature=1.0, top_p=0.95, seed=7) for _ in range(2)]
    assert samples[0] == samples[1]


def test_seeds_and_temperature_reach_the_engine(client: openai.OpenAI, deployment: Deployment) -> None:
    if deployment.engine == "scripted":
        pytest.skip("its answers are written, not drawn")
    samples = {answer(client, PROMPTS[0], temperature=1.5, seed=seed) for seed in range(4)}
    assert len(samples) > 1


def test_log_probabilities_match_the_tokens(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="model",
        messages=[{"role": "user", "content": PROMPTS[0]}],
        max_tokens=6,
        temperature=0,
        logprobs=True,
        extra_body={"ignore_eos": True},
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert len(logprobs.content) == 6
    assert all(entry.logprob <= 1e-4 for entry in logprobs.content)


def test_scoring_prefers_the_engine_s_own_greedy_answer(client: openai.OpenAI, deployment: Deployment) -> None:
    tokens = Tokenizer(Path(deployment.model_path)).encode(PROMPTS[0])
    made = client.completions.create(
        model="model",
        prompt=tokens,
        max_tokens=12,
        temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    own = made.choices[0].model_dump()["token_ids"]
    scored = client.completions.create(
        model="model", prompt=[*tokens, *own], max_tokens=0, echo=True, logprobs=1, temperature=0
    )
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None
    assert len(logprobs.token_logprobs) == len(tokens) + 12
    assert logprobs.token_logprobs[0] is None
    tops = [max(row.values()) for row in (logprobs.top_logprobs or [])[len(tokens) :]]
    agreed = [own >= top for own, top in zip(logprobs.token_logprobs[len(tokens) :], tops, strict=True)]
    assert sum(logprobs.model_dump().get("top_is_own", [None] * len(tokens) + agreed)[len(tokens) :]) >= 10
    assert sum(agreed) >= 10  # the engines may multiply in bfloat16 or 8 bits: near ties may fall otherwise
    assert all(p <= 1e-4 and math.isfinite(p) for p in logprobs.token_logprobs[1:])


def formed(client: openai.OpenAI, schema: object, **more: object) -> str | None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    reply = client.chat.completions.create(
        model="model", messages=[{"role": "user", "content": PROMPTS[0]}], max_tokens=24, response_format=form, **more
    )  # type: ignore[call-overload]
    return reply.choices[0].message.content  # type: ignore[no-any-return]


def test_answers_follow_a_json_schema_or_it_is_refused(client: openai.OpenAI, deployment: Deployment) -> None:
    words = {"enum": ["red", "green", 17]}
    if not engines.engine_class(deployment.engine).forms:
        with pytest.raises(openai.BadRequestError, match="response_format"):
            formed(client, words)
        return
    assert {formed(client, words, temperature=1.5, seed=seed) for seed in range(6)} <= {'"red"', '"green"', "17"}
    assert formed(client, {"type": "boolean"}, temperature=0) in ("true", "false")


def test_a_bad_json_schema_ends_only_its_own_request(client: openai.OpenAI) -> None:
    for schema in ({"type": "strange"}, {"$ref": "#/$defs/nowhere"}, {"type": "string", "pattern": "(["}):
        with pytest.raises(openai.BadRequestError):
            formed(client, schema)
    assert answer(client, PROMPTS[1], max_tokens=4)


TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"place": {"enum": ["north", "south"]}}, "required": ["place"]},
    },
}
NAMED = {"type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize("stream", [False, True])
def test_a_demanded_call_is_made_or_refused(client: openai.OpenAI, deployment: Deployment, stream: bool) -> None:
    cls = engines.engine_class(deployment.engine)
    if deployment.engine == "vllm":
        pytest.skip("vLLM serves tools where it is started with a parser")
    asked = {
        "model": "model",
        "messages": [{"role": "user", "content": PROMPTS[1]}],
        "max_tokens": 250,
        "temperature": 0,
        "tools": [TOOL],
        "tool_choice": NAMED,
    }
    if not cls.forms:
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            client.chat.completions.create(**asked)
        return
    if not stream:
        choice = client.chat.completions.create(**asked).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        [call] = choice.message.tool_calls
        assert call.function.name == "look" and json.loads(call.function.arguments)["place"] in ("north", "south")
        return
    parts = [
        part
        for chunk in client.chat.completions.create(**asked, stream=True)
        for part in chunk.choices[0].delta.tool_calls or ()
    ]
    assert parts[0].function.name == "look" and parts[0].id
    assert json.loads("".join(part.function.arguments or "" for part in parts))["place"] in ("north", "south")


# Field -> a value under which the greedy answer must be another one than without it.
ACTING: dict[str, Callable[[list[int]], object]] = {
    "logit_bias": lambda usual: {str(usual[0]): -100},
    "repetition_penalty": lambda usual: 10.0,
    "presence_penalty": lambda usual: 2.0,
    "frequency_penalty": lambda usual: 2.0,
    "stop_token_ids": lambda usual: [usual[2]],
}
SAMPLED: dict[str, object] = {"top_k": 1, "min_p": 1.0, "top_p": 1e-6}  # each makes sampling greedy


def ids(client: openai.OpenAI, **more: object) -> list[int]:
    extra = {name: more.pop(name) for name in list(more) if name in EXTRA} | {"return_token_ids": True}
    asked = {"max_tokens": 100, **more}  # so long that tokens come again
    reply = client.completions.create(model="model", prompt=PROMPTS[0], extra_body=extra, **asked)  # type: ignore[call-overload]
    return list(reply.choices[0].token_ids)


EXTRA = ("top_k", "min_p", "repetition_penalty", "stop_token_ids", "min_tokens", "ignore_eos")


@pytest.mark.parametrize("name", [*ACTING, *SAMPLED, "min_tokens"])
def test_each_field_acts_or_is_refused_by_name(client: openai.OpenAI, deployment: Deployment, name: str) -> None:
    cls = engines.engine_class(deployment.engine)
    usual = ids(client, temperature=0)
    value: object = 8 if name == "min_tokens" else SAMPLED[name] if name in SAMPLED else ACTING[name](usual)
    if name not in cls.followed_fields():
        with pytest.raises(openai.BadRequestError, match=name):
            ids(client, temperature=0, **{name: value})
        return
    if deployment.engine == "scripted":
        pytest.skip("the scripted engine does not sample")
    if name in SAMPLED:
        short = {"temperature": 1.5, "max_tokens": 24}  # no two tokens are as likely as each other so soon
        near = [ids(client, seed=seed, **short, **{name: value}) for seed in range(3)]
        assert len({tuple(one) for one in near}) == 1
        assert len({tuple(ids(client, temperature=1.5, seed=seed)) for seed in range(3)}) > 1
    elif name == "min_tokens":
        ended = ids(client, temperature=0, stop_token_ids=[usual[2]], min_tokens=8)
        assert len(ended) >= 8 > len(ids(client, temperature=0, stop_token_ids=[usual[2]]))
    else:
        assert ids(client, temperature=0, **{name: value}) != usual


def test_one_of_some_choices_is_answered(client: openai.OpenAI, deployment: Deployment) -> None:
    choices = ["yes", 'no "way"', "ümlaut"]
    body = {"structured_outputs": {"choice": choices}}
    asked = {
        "model": "model",
        "messages": [{"role": "user", "content": PROMPTS[1]}],
        "max_tokens": 40,
        "extra_body": body,
    }
    if "choice" not in engines.engine_class(deployment.engine).forms:
        with pytest.raises(openai.BadRequestError, match="structured_outputs"):
            client.chat.completions.create(**asked)
        return
    said = {
        client.chat.completions.create(**asked, temperature=1.5, seed=n).choices[0].message.content for n in range(4)
    }
    assert said <= set(choices)


def test_the_likeliest_tokens_are_given_on_every_engine(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="model",
        messages=[{"role": "user", "content": PROMPTS[1]}],
        max_tokens=5,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    rows = reply.choices[0].logprobs.content
    assert len(rows) == reply.usage.completion_tokens
    assert all(row.logprob >= row.top_logprobs[0].logprob - 0.05 for row in rows)


def test_a_prompt_beyond_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        answer(client, PROMPTS[2] * 40)


def test_a_client_that_leaves_frees_its_row(client: openai.OpenAI, endpoint: Endpoint) -> None:
    stream = client.completions.create(
        model="model", prompt=PROMPTS[1], max_tokens=200, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _metric(endpoint, "num_requests_running") > 0:
        time.sleep(0.05)
    assert _metric(endpoint, "num_requests_running") == 0
    assert answer(client, PROMPTS[1], max_tokens=4)


def test_health_and_metrics_answer(endpoint: Endpoint) -> None:
    with urllib.request.urlopen(f"{endpoint.base_url}/health", timeout=5) as reply:
        assert reply.status == 200
    assert _metric(endpoint, "generation_tokens_total") > 0


def test_it_names_what_multiplies(endpoint: Endpoint, deployment: Deployment) -> None:
    told = " ".join(endpoint.kernels())
    known = {
        "vllm": "",
        "scripted": "no matrix",
        "transformers": "float32",
        "openvino": "weights",
        "onnxruntime": "MatMul",
        "llamacpp": "MiB of weights in CPU",
    }
    assert known.get(deployment.engine, "") in told and bool(told) == (deployment.engine != "vllm")


def test_settings_that_it_lacks_are_refused_with_what_it_has(deployment: Deployment) -> None:
    with pytest.raises(EngineRefused, match="max_num_seqs"):
        engines.make(deployment.engine, {"turbo": True})
    with pytest.raises(EngineRefused, match="type"):
        engines.make(deployment.engine, {"max_num_seqs": "many"})


def _metric(endpoint: Endpoint, name: str) -> float:
    """Under our prefix, or vLLM's own, whose names ours are."""
    with urllib.request.urlopen(f"{endpoint.base_url}/metrics", timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    return float(next(line for line in lines if re.match(rf"(pennyweight|vllm):{name}[ {{]", line)).split()[-1])


def test_embeddings_are_the_mean_or_the_last_of_the_hidden_states(
    client: openai.OpenAI, deployment: Deployment, tiny_checkpoint: Path
) -> None:
    if not engines.engine_class(deployment.engine).embeds:
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
            client.embeddings.create(model="model", input="x")
        return
    import torch
    from transformers import AutoModel

    tokenizer = Tokenizer(tiny_checkpoint)
    texts_ = [PROMPTS[1], PROMPTS[2] * 2]
    stock = AutoModel.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    for pooling in ("mean", "last"):
        made = client.embeddings.create(model="model", input=texts_, extra_body={"pooling": pooling})
        for row, text in zip(made.data, texts_, strict=True):
            with torch.no_grad():
                states = stock(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0]
            wanted = torch.nn.functional.normalize(states.mean(0) if pooling == "mean" else states[-1], dim=0)
            assert float(torch.tensor(row.embedding) @ wanted) > 0.98  # 8-bit forms are near
    assert made.usage.prompt_tokens == sum(len(tokenizer.encode(text)) for text in texts_)
