"""What the gateway promises when it is reloaded, ended or measured."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from pennyweight import formats
from pennyweight.deployment import Deployment
from pennyweight.serve.gateway.server import reload
from pennyweight.service import Service
from tests.serve.gateway.gateways import Running, Start

ASKED: dict[str, Any] = {"model": "model", "prompt": "a b c", "max_tokens": 40}


def figure(gateway: Running, name: str) -> float:
    import urllib.request

    with urllib.request.urlopen(f"{gateway.base_url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"pennyweight:{name}"))


def test_a_reload_to_another_name_keeps_all_accepted_work(
    start: Start, deployed: Callable[..., Path], tokenizer_directory: Path, tmp_path: Path
) -> None:
    gateway = start("--max-queue", 100, max_num_seqs=2, step_ms=5.0)
    other = Service.of(Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", {}), ["other"])
    formats.write("service", tmp_path / "service.json", other)
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(lambda: gateway.client().completions.create(**ASKED)) for _ in range(20)]
        gateway.until(lambda: gateway.status["waiting"] > 5)
        reload(gateway.port, tmp_path)
        assert [one.result().usage.completion_tokens for one in asked] == [40] * 20
    with pytest.raises(openai.NotFoundError, match="'other'"):
        gateway.client().completions.create(**ASKED)


def test_an_ending_gateway_refuses_in_json_and_tells_its_streams(start: Start) -> None:
    gateway = start("--drain-timeout", 1, max_num_seqs=1, step_ms=50.0)
    stream = iter(gateway.client().completions.create(**ASKED | {"max_tokens": 200, "stream": True}))
    next(stream)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(lambda: gateway.client().completions.create(**ASKED))  # at the engine, behind the stream
        gateway.until(lambda: gateway.status["running"] == 2)
        waiting = pool.submit(lambda: gateway.client().completions.create(**ASKED))
        gateway.until(lambda: gateway.status["waiting"] == 1)
        gateway.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError) as refused:
            waiting.result()
    assert refused.value.status_code == 503 and refused.value.response.headers["retry-after"]
    assert "shutting down" in refused.value.body["message"]
    with pytest.raises(openai.APIError, match="shutting down"):
        for _ in stream:
            pass
    assert gateway.process.wait(20) == 0


def test_tokens_are_counted_and_first_tokens_are_the_engines(start: Start) -> None:
    gateway = start(max_num_seqs=8, step_ms=20.0)
    client = gateway.client()
    client.completions.create(**ASKED | {"n": 4, "max_tokens": 10})
    assert figure(gateway, "generation_tokens_total") == 40
    list(client.completions.create(**ASKED | {"n": 2, "max_tokens": 10, "stream": True}))
    assert figure(gateway, "generation_tokens_total") == 60
    with pytest.raises(openai.BadRequestError):
        client.completions.create(**ASKED | {"max_tokens": 10**6})
    assert figure(gateway, "time_to_first_token_seconds_count") == 2  # a refusal has none
    first, whole = (figure(gateway, f"{name}_seconds_sum") for name in ("time_to_first_token", "e2e_request_latency"))
    assert first < whole / 2  # of a whole answer too


def test_a_promised_time_is_kept_after_a_slow_phase(start: Start) -> None:
    gateway = start("--slo", "ttft:400", max_num_seqs=2, step_ms=10.0)
    client = gateway.client()

    def ask(tokens: int) -> str:
        began = time.monotonic()
        try:
            stream = client.completions.create(**ASKED | {"max_tokens": tokens, "stream": True})
            next(iter(stream))
            first = time.monotonic() - began
            for _ in stream:
                pass
            return "in time" if first < 1.0 else f"late: {first:.1f}"
        except openai.RateLimitError:
            return "refused"

    with ThreadPoolExecutor(6) as pool:
        loaded = list(pool.map(ask, [150] * 6))
    assert set(loaded) == {"in time", "refused"}
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, [5] * 2)) == ["in time"] * 2
