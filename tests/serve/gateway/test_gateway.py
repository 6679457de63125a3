"""The gateway from outside, through the real OpenAI client and through bare sockets."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from pennyweight.serve.gateway import guard
from pennyweight.serve.gateway.keys import add
from pennyweight.serve.gateway.tenant import Tenant
from tests.serve.gateway.gateways import Running, Start, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHAT: dict[str, Any] = {"model": "model", "messages": [{"role": "user", "content": "Say it again"}], "max_tokens": 8}


def post(gateway: Running, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
    request = urllib.request.Request(gateway.base_url + path, body, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.loads(error.read())


def test_chat_and_completions_whole_and_streamed(gateway: Running) -> None:
    client = gateway.client()
    whole = client.chat.completions.create(**CHAT)
    assert whole.usage is not None and whole.usage.completion_tokens == 8
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 8
    text = client.completions.create(model="model", prompt="once upon", max_tokens=4)
    assert text.choices[0].finish_reason == "length"


def test_scores_and_tokens_pass_through(gateway: Running) -> None:
    scored = gateway.client().completions.create(
        model="model", prompt="to score this", max_tokens=0, echo=True, logprobs=1
    )
    assert scored.choices[0].logprobs is not None
    status, _, told = post(gateway, "/tokenize", b'{"prompt": "some words"}')
    assert status == 200 and told["count"] == len(told["tokens"]) > 0


def test_it_names_its_model_and_whether_it_is_ready(gateway: Running) -> None:
    client = gateway.client()
    assert [card.id for card in client.models.list().data] == ["model"]
    assert client.models.retrieve("model").id == "model"
    with pytest.raises(openai.NotFoundError, match="use 'model'"):
        client.models.retrieve("other/one")
    assert gateway.get("/ready") == {"ready": True, "replicas": 1}
    assert gateway.get("/health") == {"status": "ok"}
    assert "/v1/chat/completions" in gateway.get("/openapi.json")["paths"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/chat/completions", b"{not json", 400, "no JSON"),
        ("/v1/chat/completions", b"[1]", 400, "no object"),
        ("/v1/chat/completions", b"\xff\xfe", 400, "no JSON"),
        ("/v1/chat/completions", b"[" * 100_000, 400, "no JSON"),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, ""),
        ("/v1/chat/completions", b'{"messages": []}', 400, "messages"),
        ("/v1/chat/completions", b'{"messages": 7, "temperature": 0}', 400, "messages"),
        ("/v1/chat/completions", json.dumps({**CHAT, "model": "other"}).encode(), 404, "not served here"),
        ("/v1/chat/completions", json.dumps({**CHAT, "max_tokens": 10**6}).encode(), 400, "context"),
        ("/v1/completions", b'{"prompt": "x", "max_tokens": 1' + b"0" * 400 + b"}", 400, "max_tokens"),
        ("/v1/chat/completions", json.dumps({**CHAT, "tools": [{"type": "function"}]}).encode(), 400, "tools"),
        (
            "/v1/chat/completions",
            json.dumps({**CHAT, "response_format": {"type": "json_schema"}}).encode(),
            400,
            "response_format",
        ),
        ("/v1/completions", b'{"prompt": "x", "n": 0}', 400, "n"),
        ("/v1/embeddings", b'{"input": "x"}', 400, "embeddings"),
        ("/v1/nothing", b"{}", 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_refused_as_openai_would(
    gateway: Running, path: str, body: bytes, status: int, says: str
) -> None:
    got, _, told = post(gateway, path, body)
    assert got == status and says in told["error"]["message"] and told["error"]["type"]


def test_a_body_that_is_too_large_is_not_read(start: Start) -> None:
    gateway = start()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        connection.sendall(head + b"content-length: 999999999\r\n\r\n")
        assert b"413" in connection.recv(4096)


def test_an_equal_request_is_answered_from_the_cache(gateway: Running) -> None:
    body = json.dumps({**CHAT, "temperature": 0, "messages": [{"role": "user", "content": "cached?"}]}).encode()
    status, headers, first = post(gateway, "/v1/chat/completions", body)
    assert status == 200 and headers["x-pennyweight-cache"] == "miss"
    gateway.until(lambda: post(gateway, "/v1/chat/completions", body)[1]["x-pennyweight-cache"] == "hit")
    _, headers, again = post(gateway, "/v1/chat/completions", body)
    assert again == first and int(headers["age"]) < 60
    assert "x-pennyweight-cache" not in post(gateway, "/v1/chat/completions", json.dumps(CHAT).encode())[1]
    asked = post(gateway, "/v1/chat/completions", body, **{"x-pennyweight-cache": "no"})
    assert "x-pennyweight-cache" not in asked[1]
    status, _, answer = post(gateway, "/v1/chat/completions", body, **{"x-pennyweight-cache": "no-similiar"})
    assert status == 400 and "use `no`, `no-similar` or `use`" in answer["error"]["message"]


def test_a_cached_stream_is_the_same_stream(gateway: Running) -> None:
    client = gateway.client()
    asked = {**CHAT, "temperature": 0, "stream": True, "messages": [{"role": "user", "content": "as a stream"}]}

    def streamed() -> list[dict[str, Any]]:  # with the id of its answer, so that two answers are never equal
        return [chunk.model_dump() for chunk in client.chat.completions.create(**asked)]

    gateway.until(lambda: streamed() == streamed())


def test_equal_requests_at_once_are_one_for_the_engine(start: Start, tmp_path: Path) -> None:
    gateway = start("--cache", tmp_path / "c.db", step_ms=50.0)
    body = json.dumps({**CHAT, "temperature": 0}).encode()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(gateway, "/v1/chat/completions", body), range(8)))
    assert len({json.dumps(told) for _, _, told in answers}) == 1
    assert sorted(headers["x-pennyweight-cache"] for _, headers, _ in answers).count("miss") == 1


def test_a_refusal_is_never_cached(gateway: Running) -> None:
    body = json.dumps({**CHAT, "temperature": 0, "max_tokens": 10**6}).encode()
    for _ in range(3):
        status, headers, _ = post(gateway, "/v1/chat/completions", body)
        assert (status, headers["x-pennyweight-cache"]) == (400, "miss")


def test_two_tenants_with_the_same_prompt_share_nothing(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = [add(file, Tenant(name)) for name in ("alice", "bob")]
    gateway = start("--keys", file, "--cache", tmp_path / "c.db")
    body = json.dumps({**CHAT, "temperature": 0}).encode()

    def ask(key: str) -> str:
        status, headers, _ = post(gateway, "/v1/chat/completions", body, authorization=f"Bearer {key}")
        assert status == 200
        return headers["x-pennyweight-cache"]

    assert ask(keys[0]) == "miss"
    deadline = time.monotonic() + 5
    while ask(keys[0]) != "hit":
        assert time.monotonic() < deadline
    assert ask(keys[1]) == "miss"
    with pytest.raises(openai.AuthenticationError, match="API key"):
        gateway.client("wrong").chat.completions.create(**CHAT)
    assert post(gateway, "/tokenize", b'{"prompt": "x"}')[0] == 401


@pytest.mark.slow
def test_limits_of_a_key_are_told_with_the_time_to_wait(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add(file, Tenant("alice", requests_per_minute=2))
    client = start("--keys", file).client(key)
    for _ in range(2):
        client.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError, match="2 requests a minute") as refused:
        client.chat.completions.create(**CHAT)
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60


@pytest.mark.slow
def test_a_queue_that_is_full_sheds(start: Start) -> None:
    gateway = start("--max-queue", 2, max_num_seqs=1, step_ms=100.0)

    def ask(_: int) -> str:
        try:
            gateway.client().chat.completions.create(**CHAT)
        except openai.RateLimitError as error:
            assert int(error.response.headers["retry-after"]) >= 1
            return "shed"
        return "answered"

    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(ask, range(8)))
    assert ended.count("answered") == 4 and ended.count("shed") == 4  # one runs, one is sent ahead, two wait


@pytest.mark.slow
def test_a_promise_that_cannot_be_kept_is_not_made(start: Start) -> None:
    gateway = start("--slo", "ttft:300", max_num_seqs=1, step_ms=50.0)
    body = {**CHAT, "max_tokens": 40}

    def ask(_: int) -> str:
        try:
            gateway.client().chat.completions.create(**body)
        except openai.RateLimitError as error:
            return str(error)
        return "answered"

    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(ask, range(6)))
    assert ended.count("answered") == 1  # the other would wait in the engine
    assert all("come back later" in words for words in ended if words != "answered")


def test_a_client_that_leaves_stops_the_engine_within_a_second(gateway: Running) -> None:
    stream = gateway.client().completions.create(model="model", prompt="long", max_tokens=200, stream=True)
    next(iter(stream))
    assert gateway.status["running"] == 1
    stream.close()
    gateway.until(lambda: gateway.status["running"] == 0, 1.0)
    assert gateway.status["replicas"][0]["requests"] == 0


def test_headers_without_end_are_cut_off(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        sent = 0
        try:
            while sent < 100 * guard.HEAD_BYTES:
                connection.sendall(b"x-flood: " + b"y" * 8000 + b"\r\n")
                sent += 8000
            answer = connection.recv(100)
        except OSError:
            answer = b""
        assert sent < 100 * guard.HEAD_BYTES or b"431" in answer or not answer
    assert gateway.get("/health") == {"status": "ok"}


@pytest.mark.slow
def test_headers_that_drip_are_cut_off(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx: ")
        began = time.monotonic()
        assert connection.recv(100) == b""
        assert time.monotonic() - began < guard.HEAD_SECONDS + 5


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian package chromium)")
def test_the_page_lives_in_a_real_browser(gateway: Running, tmp_path: Path) -> None:
    gateway.client().chat.completions.create(**CHAT)
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={tmp_path}",
        "--disable-background-networking",
        "--virtual-time-budget=4000",
        "--enable-logging=stderr",
        "--dump-dom",
        f"{gateway.base_url}/",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "model: scripted BF16" in done.stdout  # what the script has put there
    assert re.search(r"<td>1</td><td>[^<]*</td><td>ready</td>", done.stdout) and "output tokens/s" in done.stdout
    assert "came without evidence" in done.stdout
    assert "Uncaught" not in done.stderr and "Content Security Policy" not in done.stderr


def test_the_page_and_the_figures(gateway: Running) -> None:
    gateway.client().chat.completions.create(**CHAT)
    with urllib.request.urlopen(gateway.base_url, timeout=5) as answer:
        assert (
            b"pennyweight gateway" in answer.read()
            and "default-src 'self'" in answer.headers["content-security-policy"]
        )
    with urllib.request.urlopen(f"{gateway.base_url}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for name in ("time_to_first_token_seconds_count", "num_requests_running", "num_requests_waiting", "replicas_ready"):
        assert f"pennyweight:{name}" in text
    assert gateway.status["lately"]["requests"] >= 1


def test_the_newer_api_whole_and_streamed(gateway: Running) -> None:
    client = gateway.client()
    asked: dict[str, Any] = {"model": "model", "input": "Say it again", "instructions": "Be brief", "temperature": 1}
    made = client.responses.create(**asked, max_output_tokens=8)
    assert made.output_text and made.status == "incomplete"  # cut at its limit, as the scripted engine always is
    assert made.usage is not None and made.usage.output_tokens == 8
    events = list(client.responses.create(**asked, max_output_tokens=8, stream=True))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == deltas == made.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    user = {"role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    turns = [user, {"role": "assistant", "content": "ho"}]
    assert client.responses.create(model="model", input=turns, max_output_tokens=4).output_text


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": ""},
        {"input": 3},
        {"input": [{"type": "input_image"}]},
        {"input": "x", "previous_response_id": "r"},
        {"input": "x", "conversation": "c"},
        {"input": "x", "tools": [{"type": "web_search"}]},
        {"input": "x", "imput": "y"},
        {"input": "x", "text": {"format": {"type": "json_schema"}}},
        {"input": [{"role": "user", "content": [{"a": 1}]}]},
        {"input": "x", "model": "other"},
        {"input": "x", "max_output_tokens": -1},
    ],
)
def test_what_the_newer_api_cannot_be_asked(gateway: Running, wrong: dict[str, Any]) -> None:
    status, _, told = post(gateway, "/v1/responses", json.dumps({"model": "model", **wrong}).encode())
    assert status in (400, 404) and told["error"]["message"]


def test_a_response_goes_on_with_an_earlier_one_unless_it_was_not_stored(gateway: Running) -> None:
    client = gateway.client()
    first = client.responses.create(model="model", input="Say it again", max_output_tokens=8, temperature=1)
    more: dict[str, Any] = {"model": "model", "input": "and more", "max_output_tokens": 4, "temperature": 1}
    second = client.responses.create(**more, previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > client.responses.create(**more).usage.input_tokens + 8
    hidden = client.responses.create(**more, store=False)
    with pytest.raises(openai.NotFoundError, match="store: false"):
        client.responses.create(**more, previous_response_id=hidden.id)


def test_anthropics_client_works_whole_streamed_and_refused(gateway: Running) -> None:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=gateway.base_url, api_key="none", max_retries=0)
    asked: dict[str, Any] = {"model": "model", "max_tokens": 8, "messages": [{"role": "user", "content": "Say it"}]}
    whole = client.messages.create(**asked, system="Be brief")
    assert whole.content[0].text and whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 8
    with client.messages.stream(**asked, system="Be brief") as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        final = stream.get_final_message()
    assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 8
    stopped = client.messages.create(**asked | {"max_tokens": 30}, stop_sequences=["user"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "user")
    count = client.messages.count_tokens(model="model", messages=asked["messages"], system="Be brief")
    assert count.input_tokens == whole.usage.input_tokens
    image = [{"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}]
    with pytest.raises(anthropic.BadRequestError, match="text only") as refused:
        client.messages.create(**asked | {"messages": [{"role": "user", "content": image}]})
    assert refused.value.body["type"] == "error"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**asked | {"model": "other"})


def test_ollamas_client_works(gateway: Running) -> None:
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=gateway.base_url)
    asked: dict[str, Any] = {"model": "model:latest", "messages": [{"role": "user", "content": "Say it"}]}
    options = {"num_predict": 8, "temperature": 1, "num_ctx": 512}
    whole = client.chat(**asked, options=options)
    assert whole.message.content and whole.done_reason == "length" and whole.eval_count == 8
    pieces = list(client.chat(**asked, options=options, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert pieces[-1].done and not pieces[0].done
    assert client.generate(model="model", prompt="Say it", options=options).response
    assert [one.model for one in client.list().models] == ["model"]
    with pytest.raises(ollama.ResponseError, match="mirostat"):
        client.chat(**asked, options={"mirostat": 1})


def test_the_base_url_works_without_its_version_and_answers_carry_an_id(gateway: Running) -> None:
    body = json.dumps(CHAT).encode()
    status, headers, told = post(gateway, "/chat/completions", body, **{"x-request-id": "mine-1"})
    assert (status, headers["x-request-id"]) == (200, "mine-1") and told["system_fingerprint"].startswith("fp_")
    status, headers, _ = post(gateway, "/v1/completions", b"{", **{"x-request-id": "no good id"})
    assert status == 400 and headers["x-request-id"].startswith("req_")
    assert gateway.get("/version")["version"]
    assert post(gateway, "/detokenize", b'{"tokens": [40]}')[2]["prompt"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_http_1_0_gets_no_chunks(gateway: Running, stream: bool) -> None:
    body = json.dumps({**CHAT, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(f"{head}host: localhost\r\n\r\n".encode() + body)
        told = b"".join(iter(lambda: connection.recv(65536), b""))
    headers, _, answer = told.partition(b"\r\n\r\n")
    assert b"chunked" not in headers.lower()
    assert answer.endswith(b"data: [DONE]\n\n") if stream else json.loads(answer)["choices"]


def test_langchain_works_with_nothing_but_the_base_url(gateway: Running) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=f"{gateway.base_url}/v1", api_key="none", model="model", max_tokens=8, max_retries=0)
    whole = model.invoke("Say it again")
    assert whole.content and whole.usage_metadata["output_tokens"] == 8
    assert "".join(chunk.text for chunk in model.stream("Say it again")) == whole.content


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
@pytest.mark.slow
def test_tls(deployed: Callable[..., Path], tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with running(deployed(), "--tls-certificate", certificate, "--tls-key", key) as gateway:
        trusted = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(f"https://127.0.0.1:{gateway.port}/health", timeout=5, context=trusted) as answer:
            assert answer.status == 200
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{gateway.base_url}/health", timeout=5)


def test_a_stored_response_is_read_and_deleted_by_its_owner_only(gateway: Running) -> None:
    client = gateway.client()
    made = client.responses.create(model=gateway.status["models"][0], input="hi", max_output_tokens=4)
    assert client.responses.retrieve(made.id).output_text == made.output_text
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(made.id)
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match=made.id):
        client.responses.retrieve(made.id)


def test_one_header_larger_than_the_bound_is_refused(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: " + b"y" * 70_000 + b"\r\n\r\n")
        assert b"431" in connection.recv(100)
