"""The worker over real HTTP, with OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from pennyweight.deployment import Deployment
from pennyweight.errors import EngineRefused
from pennyweight.openai_api.answers import Answer
from pennyweight.serve import Endpoint, open_engine
from pennyweight.tokenizer import Tokenizer
from pennyweight.worker.streaming import EventStream

TEXT = "The cat sat on the mat because it was warm."


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory: Path) -> Tokenizer:
    return Tokenizer(tokenizer_directory)


def client_of(endpoint: Endpoint, timeout: float = 20) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", max_retries=0, timeout=timeout)


@pytest.fixture(scope="module")
def client(scripted_endpoint: Endpoint) -> openai.OpenAI:
    return client_of(scripted_endpoint)


def raw(endpoint: Endpoint, path: str, body: bytes | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(endpoint.base_url + path, data=body, headers={"content-type": "application/json"}),
            timeout=10,
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def gauge(endpoint: Endpoint, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", raw(endpoint, "/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_until(true: Callable[[], bool], seconds: float = 3.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return False


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# -- answers --


def test_models_lists_what_is_served(client: openai.OpenAI) -> None:
    card = client.models.list().data[0]
    assert (card.id, card.max_model_len) == ("model", 512)  # type: ignore[attr-defined]


def test_a_completion_answers_and_counts_its_tokens(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(TEXT)
    answer = client.completions.create(model="model", prompt=TEXT, max_tokens=len(tokens))
    assert answer.choices[0].text == TEXT
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(tokens), len(tokens))


def test_a_chat_answers_under_the_models_template(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.chat(user(TEXT))
    answer = client.chat.completions.create(model="model", messages=user(TEXT), max_tokens=len(tokens))
    assert answer.choices[0].message.content == tokenizer.decode(tokens)
    assert TEXT in answer.choices[0].message.content
    assert answer.usage.prompt_tokens == len(tokens)


def test_a_prompt_may_be_token_ids(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("Good morning")
    answer = client.completions.create(model="model", prompt=tokens, max_tokens=len(tokens))
    assert answer.choices[0].text == "Good morning"


@pytest.mark.parametrize("asked", [1, 2, 7])
def test_max_tokens_is_kept(client: openai.OpenAI, asked: int) -> None:
    assert client.completions.create(model="model", prompt=TEXT, max_tokens=asked).usage.completion_tokens == asked


def test_max_tokens_defaults_to_openais_sixteen(client: openai.OpenAI) -> None:
    assert client.completions.create(model="model", prompt=TEXT).usage.completion_tokens == 16


def test_a_chat_stream_adds_up_to_the_whole_answer_and_ends_with_its_usage(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="model", messages=user("😀 漢字"), max_tokens=30)
    chunks = list(
        client.chat.completions.create(
            model="model", messages=user("😀 漢字"), max_tokens=30, stream=True, stream_options={"include_usage": True}
        )
    )
    *content, last = chunks
    assert "".join(c.choices[0].delta.content or "" for c in content) == whole.choices[0].message.content
    assert content[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in content if c.choices[0].finish_reason] == ["length"]
    assert last.choices == [] and last.usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_a_completion_stream_adds_up_and_has_no_usage_unless_asked(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = len(tokenizer.encode(TEXT))
    chunks = list(client.completions.create(model="model", prompt=TEXT, max_tokens=tokens, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == TEXT
    assert all(c.usage is None for c in chunks)


@pytest.mark.parametrize("stop", [" sat", ["mat", " sat"]])
def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(client: openai.OpenAI, stop: str | list[str]) -> None:
    answer = client.completions.create(model="model", prompt=TEXT, max_tokens=60, stop=stop)
    assert answer.choices[0].text == "The cat"
    assert answer.choices[0].finish_reason == "stop"


def test_a_stop_string_ends_a_stream_too(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="model", prompt=TEXT, max_tokens=60, stop=" on the", stream=True))
    assert "".join(c.choices[0].text for c in chunks) == "The cat sat"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_echo_puts_the_prompt_before_the_answer(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = len(tokenizer.encode(TEXT))
    wanted = {"model": "model", "prompt": TEXT, "max_tokens": tokens, "echo": True}
    assert client.completions.create(**wanted).choices[0].text == TEXT + TEXT
    assert "".join(c.choices[0].text for c in client.completions.create(**wanted, stream=True)) == TEXT + TEXT


def test_token_ids_come_when_asked_for(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(TEXT)
    answer = client.completions.create(model="model", prompt=TEXT, max_tokens=4, extra_body={"return_token_ids": True})
    extra = answer.choices[0].model_extra or {}
    assert extra["token_ids"] == tokens[:4]
    assert extra["prompt_token_ids"] == tokens
    assert not hasattr(client.completions.create(model="model", prompt=TEXT, max_tokens=4).choices[0], "token_ids")


def test_ignore_eos_gives_the_full_length(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="model", prompt=TEXT, max_tokens=40, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 40


# -- log-probabilities --


def test_completion_logprobs_have_a_row_for_each_token(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    logprobs = client.completions.create(model="model", prompt=TEXT, max_tokens=5, logprobs=1).choices[0].logprobs
    names = [tokenizer.token_text(token) for token in tokenizer.encode(TEXT)[:5]]
    assert logprobs.tokens == names
    assert logprobs.token_logprobs == [-0.5] * 5
    assert logprobs.top_logprobs == [{name: -0.5} for name in names]
    assert logprobs.text_offset == [sum(map(len, names[:n])) for n in range(5)]


def test_chat_logprobs_have_a_row_for_each_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="model", messages=user(TEXT), max_tokens=6, logprobs=True, top_logprobs=1
    )
    rows = answer.choices[0].logprobs.content
    assert [row.logprob for row in rows] == [-0.5] * 6
    assert all(len(row.top_logprobs) == 1 and row.top_logprobs[0].token == row.token for row in rows)


def test_streamed_logprobs_have_a_row_for_each_token(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="model", messages=user("😀"), max_tokens=9, logprobs=True, stream=True
    )
    rows = [row for c in stream if c.choices[0].logprobs for row in c.choices[0].logprobs.content]
    assert [row.logprob for row in rows] == [-0.5] * 9


def test_no_logprobs_come_unasked(client: openai.OpenAI) -> None:
    assert client.completions.create(model="model", prompt=TEXT, max_tokens=2).choices[0].logprobs is None


def test_echo_with_no_new_tokens_scores_the_prompt(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(TEXT)
    answer = client.completions.create(model="model", prompt=tokens, max_tokens=0, echo=True, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == TEXT
    assert len(logprobs.tokens) == len(logprobs.top_logprobs) == len(tokens)
    assert logprobs.token_logprobs == [None] + [-0.5] * (len(tokens) - 1)
    assert [row and list(row.values()) for row in logprobs.top_logprobs] == [None] + [[-0.5]] * (len(tokens) - 1)
    assert answer.usage.completion_tokens == 0


# -- several prompts, scores beside answers --


def test_several_prompts_are_answered_in_their_order(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    texts = ["Good morning", "The cat"]
    answer = client.completions.create(model="model", prompt=texts, max_tokens=2, n=2)
    starts = [tokenizer.decode(tokenizer.encode(text)[:2]) for text in texts for _ in range(2)]
    assert [(c.index, c.text) for c in answer.choices] == list(enumerate(starts))
    assert answer.usage.prompt_tokens == sum(len(tokenizer.encode(text)) for text in texts)
    by_ids = client.completions.create(model="model", prompt=[tokenizer.encode(t) for t in texts], max_tokens=2)
    assert [c.text for c in by_ids.choices] == starts[::2]
    stream = client.completions.create(model="model", prompt=texts, max_tokens=2, stream=True)
    pieces = ["", ""]
    for chunk in stream:
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == starts[::2]


def test_echo_with_logprobs_scores_the_prompt_and_goes_on(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(TEXT)
    answer = client.completions.create(model="model", prompt=[tokens, tokens], max_tokens=1, echo=True, logprobs=1)
    for choice in answer.choices:
        assert len(choice.logprobs.tokens) == len(tokens) + 1
        assert choice.logprobs.token_logprobs == [None] + [-0.5] * len(tokens)
        assert choice.text == TEXT + tokenizer.decode(tokens[:1])
    one = client.completions.create(model="model", prompt=[5], max_tokens=0, echo=True, logprobs=1)
    assert one.choices[0].logprobs.token_logprobs == [None]


def test_parts_of_a_character_are_told_as_bytes(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="model", messages=user("😀"), max_tokens=40, logprobs=True)
    rows = answer.choices[0].logprobs.content
    assert "😀".encode() in b"".join(bytes(row.bytes) for row in rows)


def test_a_chat_is_gone_on_with_where_its_last_message_ends(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    begun = [*user("hi"), {"role": "assistant", "content": "Good mor"}]
    body = {"add_generation_prompt": False, "continue_final_message": True}
    answer = client.chat.completions.create(model="model", messages=begun, max_tokens=1, extra_body=body)
    text = tokenizer.chat_text(begun, continue_final_message=True)
    assert text.endswith("Good mor")
    assert answer.usage.prompt_tokens == len(tokenizer.encode(text, add_special_tokens=False))


def test_tokens_and_text_are_translated_both_ways(scripted_endpoint: Endpoint, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(TEXT)
    _, told = raw(scripted_endpoint, "/detokenize", json.dumps({"tokens": tokens}).encode())
    assert json.loads(told) == {"prompt": TEXT}
    chat = tokenizer.chat(user("hi"))
    _, told = raw(scripted_endpoint, "/detokenize", json.dumps({"tokens": chat}).encode())
    assert json.loads(told) == {"prompt": tokenizer.chat_text(user("hi"))}  # control tokens too
    _, told = raw(scripted_endpoint, "/tokenize", json.dumps({"messages": user(TEXT)}).encode())
    assert json.loads(told)["tokens"] == tokenizer.chat(user(TEXT))


def test_tools_are_described_to_a_model_whose_template_takes_none(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    plain = client.chat.completions.create(model="model", messages=user("hi"), max_tokens=1)
    told = client.chat.completions.create(model="model", messages=user("hi"), max_tokens=1, tools=[tool])
    assert told.usage.prompt_tokens > plain.usage.prompt_tokens + 30
    none = client.chat.completions.create(
        model="model", messages=user("hi"), max_tokens=1, tools=[tool], tool_choice="none"
    )
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"tool_choice": "required"}, "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tools"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "enable_thinking"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text only"),
        ({"continue_final_message": True}, "assistant"),
        ({"stream_options": {"include_usage": True}}, "stream"),
        ({"functions": [{"name": "f"}]}, "use tools"),
    ],
)
def test_what_a_chat_cannot_have_is_refused_by_name(
    scripted_endpoint: Endpoint, more: dict[str, Any], word: str
) -> None:
    body = {"messages": user("hi"), "max_tokens": 1} | more
    status, text = raw(scripted_endpoint, "/v1/chat/completions", json.dumps(body).encode())
    assert status == 400 and word in json.loads(text)["error"]["message"]


# -- refusals --

OTHERS = ("temprature", "top_k", "stop_token_ids")


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"n": 17}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"prompt": [1, 99999]}, "vocabulary"),
        ({"prompt": [-1]}, "vocabulary"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": ""}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"temprature": 0}, "temperature"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "use n"),
        ({"top_k": 4}, "top_k"),
        ({"prompt": ["a"] * 65}, "64"),
        ({"stop_token_ids": [99999]}, "vocabulary"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_shape(
    client: openai.OpenAI, wrong: dict[str, Any], word: str
) -> None:
    known = {name: value for name, value in wrong.items() if name not in OTHERS}
    others = {name: value for name, value in wrong.items() if name in OTHERS}
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"model": "model", "prompt": TEXT, "max_tokens": 4} | known, extra_body=others)
    assert word in refused.value.body["message"]
    assert set(refused.value.body) == {"message", "type", "param", "code"}
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": -1}, "temperature"),
        ({"messages": [{"role": "user", "content": "x"}], "stop": 5}, "stop"),
    ],
)
def test_a_refusal_names_the_parameter(scripted_endpoint: Endpoint, body: dict[str, Any], param: str) -> None:
    status, text = raw(scripted_endpoint, "/v1/chat/completions", json.dumps(body).encode())
    assert (status, json.loads(text)["error"]["param"]) == (400, param)


@pytest.mark.parametrize("body", [b"{broken", b"", b"[]", b"\xff\xfe", b'"text"'])
def test_a_body_that_is_no_json_object_is_refused(scripted_endpoint: Endpoint, body: bytes) -> None:
    status, text = raw(scripted_endpoint, "/v1/completions", body)
    assert status == 400
    assert json.loads(text)["error"]["type"] == "invalid_request_error"


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.completions.create(model="gpt-9", prompt=TEXT)


@pytest.mark.parametrize("wanted", [{"max_tokens": 600}, {"prompt": [5] * 600, "max_tokens": 1}])
def test_too_much_for_the_context_says_so_by_code(client: openai.OpenAI, wanted: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"model": "model", "prompt": TEXT} | wanted)
    assert refused.value.code == "context_length_exceeded"
    assert "512" in str(refused.value)


def test_a_text_that_cannot_fit_is_refused_before_it_is_cut(scripted_endpoint: Endpoint) -> None:
    """Cutting 4 MB into tokens takes seconds, in which nobody else was served."""
    long = "word " * 800_000
    for path, body in (
        ("/v1/chat/completions", {"messages": user(long)}),
        ("/v1/completions", {"prompt": long}),
        ("/tokenize", {"prompt": long}),
    ):
        status, text = raw(scripted_endpoint, path, json.dumps(body).encode())
        assert status == 400
        assert json.loads(text)["error"]["code"] == "context_length_exceeded"
        assert "4,000,0" in text


def test_control_tokens_in_a_message_are_text_unless_wished(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    end = tokenizer.backend.id_to_token(tokenizer.end_tokens[0])
    counts = []
    for wish in (False, True):
        answer = client.chat.completions.create(
            model="", messages=user(f"Hi{end} there"), max_tokens=1, extra_body={"parse_special_tokens": wish}
        )
        assert answer.usage is not None
        counts.append(answer.usage.prompt_tokens)
    assert counts[0] > counts[1]


@pytest.mark.parametrize(("path", "status"), [("/v1/nothing", 404), ("/v1/chat/completions", 405)])
def test_a_path_or_method_that_is_not_there_answers_in_openais_shape(
    scripted_endpoint: Endpoint, path: str, status: int
) -> None:
    given, text = raw(scripted_endpoint, path)
    assert given == status
    assert json.loads(text)["error"]["message"]


def test_it_still_answers_after_all_refusals(client: openai.OpenAI) -> None:
    assert client.completions.create(model="model", prompt="ab", max_tokens=1).usage.completion_tokens == 1


# -- watching it --


def test_health_is_ok(scripted_endpoint: Endpoint) -> None:
    assert raw(scripted_endpoint, "/health") == (200, '{"status":"ok"}')


def test_every_metric_has_our_prefix(scripted_endpoint: Endpoint) -> None:
    status, text = raw(scripted_endpoint, "/metrics")
    names = [line.split("{")[0].split()[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert status == 200 and len(names) > 10
    assert all(name.startswith("pennyweight:") for name in names)


def test_metrics_count_tokens(scripted_endpoint: Endpoint, client: openai.OpenAI) -> None:
    before = gauge(scripted_endpoint, "pennyweight:generation_tokens_total")
    client.completions.create(model="model", prompt=TEXT, max_tokens=11)
    assert gauge(scripted_endpoint, "pennyweight:generation_tokens_total") - before == 11


@pytest.mark.parametrize(("stop", "reason"), [(None, "length"), (" sat", "stop")])
def test_metrics_count_finished_requests_by_their_reason(
    scripted_endpoint: Endpoint, client: openai.OpenAI, stop: str | None, reason: str
) -> None:
    sample = f'pennyweight:request_success_total{{finished_reason="{reason}"}}'
    before = gauge(scripted_endpoint, sample)
    answer = client.completions.create(model="model", prompt=TEXT, max_tokens=20, stop=stop)
    assert answer.choices[0].finish_reason == reason
    assert gauge(scripted_endpoint, sample) - before == 1


# -- many, and those who leave --


@pytest.fixture(scope="module")
def slow_endpoint(tokenizer_directory: Path) -> Any:
    with open_engine(Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", {"step_ms": 50.0})) as endpoint:
        yield endpoint


def test_a_client_that_leaves_a_stream_stops_the_engine(slow_endpoint: Endpoint) -> None:
    stream = client_of(slow_endpoint).completions.create(model="model", prompt=TEXT, max_tokens=200, stream=True)
    next(iter(stream))
    assert gauge(slow_endpoint, "pennyweight:num_requests_running") == 1
    stream.close()  # the whole answer would take 10 s
    assert wait_until(lambda: gauge(slow_endpoint, "pennyweight:num_requests_running") == 0)
    made = gauge(slow_endpoint, "pennyweight:generation_tokens_total")
    time.sleep(0.3)
    assert gauge(slow_endpoint, "pennyweight:generation_tokens_total") == made


def test_a_client_that_gives_up_on_a_whole_answer_stops_the_engine(slow_endpoint: Endpoint) -> None:
    with pytest.raises(openai.APITimeoutError):
        client_of(slow_endpoint, timeout=0.5).completions.create(model="model", prompt=TEXT, max_tokens=200)
    assert wait_until(lambda: gauge(slow_endpoint, "pennyweight:num_requests_running") == 0)


def test_a_stop_string_stops_the_engine(slow_endpoint: Endpoint) -> None:
    client_of(slow_endpoint).completions.create(model="model", prompt=TEXT, max_tokens=200, stop=" cat")
    assert wait_until(lambda: gauge(slow_endpoint, "pennyweight:num_requests_running") == 0)


def test_twenty_streams_at_once_all_finish_with_their_own_text(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    def one(number: int) -> tuple[str, str]:
        prompt = f"Request number {number} of twenty."
        length = len(tokenizer.encode(prompt))
        stream = client.completions.create(model="model", prompt=prompt, max_tokens=length, stream=True)
        return prompt, "".join(chunk.choices[0].text for chunk in stream)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(one, range(20)))
    assert all(prompt == answer for prompt, answer in answers)


def test_several_answers_to_one_prompt(client: openai.OpenAI) -> None:
    made = client.completions.create(model="model", prompt="a b c", max_tokens=5, n=3, seed=1)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert made.usage is not None and made.usage.completion_tokens == 15
    assert made.usage.prompt_tokens == client.completions.create(model="model", prompt="a b c").usage.prompt_tokens


def test_several_answers_as_one_stream(client: openai.OpenAI) -> None:
    asked = {"model": "model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    whole = client.chat.completions.create(**asked, n=2)
    texts = {0: "", 1: ""}
    usage = None
    for chunk in client.chat.completions.create(**asked, n=2, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert list(texts.values()) == [choice.message.content for choice in whole.choices]
    assert usage is not None and usage.completion_tokens == 8


def test_forms_that_it_cannot_hold_are_refused(client: openai.OpenAI) -> None:
    asked = {"model": "model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    assert client.chat.completions.create(**asked, response_format={"type": "text"}).choices
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(**asked, response_format={"type": "json_object"})
    with pytest.raises(openai.BadRequestError, match="n:"):
        client.chat.completions.create(**asked, n=0)


def test_tokenize_tells_ids_and_how_many(scripted_endpoint: Endpoint) -> None:
    request = urllib.request.Request(
        f"{scripted_endpoint.base_url}/tokenize", b'{"prompt": "a b c"}', {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        told = json.loads(answer.read())
    assert told["count"] == len(told["tokens"]) > 0 and told["max_model_len"] > 0


def test_what_the_engine_refuses_is_a_bad_request(tokenizer_directory: Path) -> None:
    with open_engine(Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", {"fault": "refuse"})) as endpoint:
        with pytest.raises(openai.BadRequestError, match="asked to refuse"):
            client_of(endpoint).completions.create(model="model", prompt="hi", max_tokens=4)
        assert gauge(endpoint, "pennyweight:num_requests_running") == 0


@pytest.mark.parametrize("refusable", [False, True])
def test_a_stream_that_may_be_refused_says_nothing_before(tokenizer: Tokenizer, refusable: bool) -> None:
    """Else it has begun already, and ends with an error event."""
    sent: list[Any] = []

    async def refusing() -> AsyncIterator[Any]:
        raise EngineRefused("no such form")
        yield

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.sleep(60)

    answer = Answer(chat=True, model="model", prompt_tokens=[1], tokenizer=tokenizer)
    stream = EventStream([(answer, refusing())], False, refusable=refusable)  # type: ignore[list-item]
    if refusable:
        with pytest.raises(EngineRefused):
            asyncio.run(stream._write(send))
        assert sent == []
    else:
        asyncio.run(stream(None, receive, send))  # type: ignore[arg-type]
        assert sent[0]["status"] == 200 and b"no such form" in sent[-2]["body"]


def test_a_long_score_does_not_keep_a_stream_waiting_and_ends_with_its_client(
    scripted: Callable[..., Deployment], tokenizer: Tokenizer
) -> None:
    with open_engine(scripted(prefill_ms=100.0, step_ms=5.0)) as endpoint:
        client = client_of(endpoint)
        tokens = tokenizer.encode("a") * 480  # 8 pieces of 0.1 s
        with ThreadPoolExecutor(2) as pool:
            asked = {"model": "model", "prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 1}
            started = time.monotonic()
            scoring = pool.submit(lambda: (client.completions.create(**asked), time.monotonic() - started))
            last, longest = time.monotonic(), 0.0
            for _ in client.completions.create(model="model", prompt=TEXT, max_tokens=30, stream=True):
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            scored, seconds = scoring.result()
            assert longest < 0.7 * seconds, "on a busy machine both take longer"
            assert len(scored.choices[0].logprobs.tokens) == 480
        with pytest.raises(openai.APITimeoutError):
            client_of(endpoint, timeout=0.2).completions.create(**asked)
        started = time.monotonic()
        assert client.completions.create(**asked | {"prompt": tokens[:2]}).choices
        assert time.monotonic() - started < 0.7 * seconds  # what was left of the score before is not computed


BIG = "word " * 800_000


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "description": BIG}}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": BIG}}]}]},
        {"messages": [{"role": "assistant", "content": "x", "reasoning_content": BIG}]},
    ],
)
def test_whatever_the_prompt_is_made_from_counts_before_it_is_cut(
    scripted_endpoint: Endpoint, body: dict[str, Any]
) -> None:
    started = time.monotonic()
    for path in ("/v1/chat/completions", "/tokenize"):
        status, text = raw(scripted_endpoint, path, json.dumps({"messages": user("hi")} | body).encode())
        assert status == 400 and "shorten it" in text
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/v1/completions", {"prompt": "x", "max_completion_tokens": 3}, "max_completion_tokens"),
        ("/v1/completions", {"prompt": "x", "tools": []}, "tools"),
        ("/v1/chat/completions", {"messages": user("x"), "echo": True}, "echo"),
        ("/v1/chat/completions", {"messages": user("x"), "top_logprobs": 2}, "logprobs"),
        ("/v1/chat/completions", {"messages": user("x"), "user": 5}, "user"),
        ("/v1/completions", {"prompt": "x", "stop": [""]}, "stop"),
        ("/v1/completions", {"prompt": "x", "min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ("/v1/completions", {"prompt": "x", "stream": True, "stream_options": {"include_usge": True}}, "include_usge"),
        ("/v1/completions", {"prompt": "x", "response_format": {"type": "json_object", "schema": {}}}, "schema"),
        ("/v1/completions", {"prompt": "x", "structured_outputs": {}}, "structured_outputs"),
        ("/v1/chat/completions", {"messages": user("x"), "tools": [{"function": {"name": "f", "foo": 1}}]}, "foo"),
    ],
)
def test_what_would_be_ignored_is_refused(
    scripted_endpoint: Endpoint, path: str, body: dict[str, Any], word: str
) -> None:
    status, text = raw(scripted_endpoint, path, json.dumps(body).encode())
    error = json.loads(text)["error"]
    assert status == 400 and (word in error["message"] or error["param"])


def test_deep_arguments_are_no_fault_of_the_engine(scripted_endpoint: Endpoint) -> None:
    call = {"function": {"name": "f", "arguments": "[" * 5000 + "]" * 5000}}
    body = {"messages": [{"role": "assistant", "tool_calls": [call]}], "max_tokens": 1}
    assert raw(scripted_endpoint, "/v1/chat/completions", json.dumps(body).encode())[0] in (200, 400)


def test_offsets_of_a_stream_are_those_of_the_whole(client: openai.OpenAI) -> None:
    asked = {"model": "model", "prompt": TEXT, "max_tokens": 4, "echo": True, "logprobs": 1}
    whole = client.completions.create(**asked).choices[0]
    parts = [c.choices[0] for c in client.completions.create(**asked, stream=True)]
    told = [offset for part in parts if part.logprobs for offset in part.logprobs.text_offset]
    assert told == whole.logprobs.text_offset
    for offset, token in zip(told, whole.logprobs.tokens, strict=True):
        assert whole.text[offset:].startswith(token)


def test_a_truncated_prompt_is_echoed_as_it_is_read(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    answer = client.completions.create(
        model="model", prompt=TEXT, max_tokens=0, echo=True, logprobs=1, extra_body={"truncate_prompt_tokens": 3}
    )
    assert answer.choices[0].text == tokenizer.decode(tokenizer.encode(TEXT)[-3:])
    assert len(answer.choices[0].logprobs.tokens) == 3


@pytest.mark.parametrize("path", ["chat", "completions"])
def test_every_chunk_has_the_usage_so_far_where_that_is_asked(client: openai.OpenAI, path: str) -> None:
    more: Any = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    if path == "chat":
        chunks = list(
            client.chat.completions.create(
                model="model", messages=[{"role": "user", "content": "hi"}], max_tokens=4, **more
            )
        )
    else:
        chunks = list(client.completions.create(model="model", prompt="one", max_tokens=4, **more))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts) and counts[-1] == 4
    assert all(chunk.usage.prompt_tokens == chunks[-1].usage.prompt_tokens > 0 for chunk in chunks)


@pytest.mark.parametrize(("choice", "status"), [("auto", 400), ("none", 200)])
def test_a_strict_schema_that_cannot_be_checked_is_refused(
    scripted_endpoint: Endpoint, choice: str, status: int
) -> None:
    function = {"name": "f", "strict": True, "parameters": {"properties": {"a": {"pattern": "(?=a)b"}}}}
    body = {"messages": user("hi"), "max_tokens": 1, "tools": [{"type": "function", "function": function}]}
    found, text = raw(scripted_endpoint, "/v1/chat/completions", json.dumps(body | {"tool_choice": choice}).encode())
    assert found == status and (status == 200 or "look-around" in json.loads(text)["error"]["message"])
