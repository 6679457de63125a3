"""A mixture as a user serves it: `pw serve` with two engine processes, asked by the official clients."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import psutil
import pytest

from pennyweight import formats
from pennyweight.deployment import Deployment
from pennyweight.mixing.cascade import SIGNS
from pennyweight.mixture import Certificate, Limit, LossRegression, Mixture, Rule, ThresholdResult
from pennyweight.service import Service
from tests.serve.gateway.gateways import Running, running

ASKED: dict[str, Any] = {"model": "mix", "messages": [{"role": "user", "content": "Name a colour"}], "max_tokens": 4}


def mixed(directory: Path, tokenizer: Path, *, loss: float) -> Path:
    """A cascade that keeps answers of a mean log-probability of at least -1; the small member has -`loss`."""
    members = {
        name: Deployment("scripted", str(tokenizer), name, "BF16", {"loss": value, "max_num_seqs": 4})
        for name, value in (("small", loss), ("large", 0.0))
    }
    signs = len(SIGNS)
    by_mean = LossRegression((0.0,) * signs, (1.0,) * signs, (-1.0, *(0.0,) * (signs - 1)), 0.0, ((0.0, 0.0),))
    certificate = Certificate(Limit(0.05), 0.05, 100, (ThresholdResult(1.0, 0.5, 0.0, 0.04, True),))
    pair = (members["small"].id, members["large"].id)
    mixture = Mixture("small", "large", pair, Rule(1.0, cascade=by_mean), certificate, departures=0.5, audited=1.0)
    routes = {"mix": "mixture", "small": "small", "large": "large"}
    formats.write("service", directory / "service.json", Service(members, routes, mixtures={"mixture": mixture}))
    return directory


@pytest.fixture(scope="module", params=[0.2, 3.0], ids=["sure", "unsure"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path
) -> Iterator[tuple[Running, bool]]:
    place = mixed(tmp_path_factory.mktemp("mixed"), tokenizer_directory, loss=request.param)
    with running(place, "--state", tmp_path_factory.mktemp("state")) as gateway:
        yield gateway, request.param < 1


def test_the_decision_is_in_the_headers_and_the_answer_whole(served: tuple[Running, bool]) -> None:
    gateway, kept = served
    raw = gateway.client().chat.completions.with_raw_response.create(**ASKED, temperature=0)
    expected = ("small", "kept by cascade") if kept else ("large", "escalated by cascade")
    assert (raw.headers["x-pennyweight-model"], raw.headers["x-pennyweight-decision"]) == expected
    answer = raw.parse()
    assert answer.choices[0].message.content and answer.choices[0].logprobs is None and answer.usage is not None


def test_streams_and_other_apis_go_through_it(served: tuple[Running, bool]) -> None:
    gateway, kept = served
    whole = gateway.client().chat.completions.create(**ASKED, temperature=0).choices[0].message.content
    chunks = list(gateway.client().chat.completions.create(**ASKED, temperature=0, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert not any(choice.logprobs for chunk in chunks for choice in chunk.choices)
    spoken = anthropic.Anthropic(base_url=gateway.base_url, api_key="none", max_retries=0)
    message = spoken.messages.with_raw_response.create(model="mix", max_tokens=4, messages=ASKED["messages"])
    assert message.headers["x-pennyweight-model"] == ("small" if kept else "large") and message.parse().content
    completed = gateway.client().completions.create(model="mix", prompt="Name", max_tokens=3, temperature=0, logprobs=1)
    assert completed.choices[0].logprobs is not None
    assert all(len(row) == 1 for row in completed.choices[0].logprobs.top_logprobs or ())


def test_a_member_can_be_asked_by_name_and_by_header(served: tuple[Running, bool]) -> None:
    gateway, _ = served
    raw = gateway.client().chat.completions.with_raw_response.create(**{**ASKED, "model": "small"})
    assert "x-pennyweight-decision" not in raw.headers
    for name in ("small", "large"):
        raw = gateway.client().chat.completions.with_raw_response.create(
            **ASKED, extra_headers={"x-pennyweight-member": name}
        )
        assert (raw.headers["x-pennyweight-model"], raw.headers["x-pennyweight-decision"]) == (name, "pinned")


def test_status_metrics_and_audits(served: tuple[Running, bool]) -> None:
    gateway, kept = served
    gateway.client().chat.completions.create(**ASKED, temperature=0)

    def state() -> dict[str, Any]:
        found: dict[str, Any] = gateway.status["mixtures"][0]
        return found

    if kept:
        gateway.until(lambda: state()["audited"] > 0)
        assert state()["kept"] > 0 and state()["departures"] == 0 and not state()["alarm"]
    else:
        assert state()["audited"] == 0 and state()["wasted_tokens"] > 0
    assert state()["policy"] == "cascade" and state()["certified_kept_share"] == 0.5
    with urllib.request.urlopen(f"{gateway.base_url}/metrics") as answer:
        assert b"pennyweight:mixture_requests_total" in answer.read()


def test_a_batch_goes_through_it(served: tuple[Running, bool]) -> None:
    gateway, _ = served
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {**ASKED, "temperature": 0}}
    client = gateway.client()
    file = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    before = gateway.status["mixtures"][0]["requests"]
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    gateway.until(lambda: client.batches.retrieve(batch.id).status == "completed")
    assert gateway.status["mixtures"][0]["requests"] > before


def test_a_small_member_that_dies_is_not_missed(tmp_path: Path, tokenizer_directory: Path) -> None:
    with running(mixed(tmp_path, tokenizer_directory, loss=0.2)) as gateway:
        client = gateway.client()
        assert client.chat.completions.with_raw_response.create(**ASKED).headers["x-pennyweight-model"] == "small"
        small = min(gateway.workers(), key=psutil.Process.create_time)  # members start in their order
        small.kill()
        answers = [client.chat.completions.with_raw_response.create(**ASKED) for _ in range(5)]
        assert all(answer.status_code == 200 for answer in answers)
        assert any(answer.headers["x-pennyweight-model"] == "large" for answer in answers)


def test_a_shadow_answers_with_the_large_member(tmp_path: Path, tokenizer_directory: Path) -> None:
    with running(mixed(tmp_path, tokenizer_directory, loss=0.2), "--mix-shadow") as gateway:
        raw = gateway.client().chat.completions.with_raw_response.create(**ASKED)
        assert raw.headers["x-pennyweight-model"] == "large"
        assert raw.headers["x-pennyweight-decision"] == "shadow, kept by cascade"
