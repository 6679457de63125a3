"""Responses in the background: queued at once, looked up by id, gone on with, cancelled; a fault is kept in place."""

from __future__ import annotations

import time
from collections.abc import Callable

import openai
import pytest

from tests.serve.gateway.gateways import Running

Start = Callable[..., Running]


def until_ended(client: openai.OpenAI, name: str) -> openai.types.responses.Response:
    deadline = time.monotonic() + 20
    while (found := client.responses.retrieve(name)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_an_answer_is_looked_up_and_gone_on_with(gateway: Running) -> None:
    client = gateway.client()
    made = client.responses.create(model="model", input="Say it", max_output_tokens=5, background=True)
    assert (made.status, made.background, made.output) == ("queued", True, [])
    found = until_ended(client, made.id)
    assert found.id == made.id and found.background and found.output_text
    assert found.usage is not None and found.usage.output_tokens == 5
    more = client.responses.create(model="model", input="And?", max_output_tokens=2, previous_response_id=made.id)
    assert more.usage is not None and more.usage.input_tokens > found.usage.input_tokens


def test_a_cancelled_one_frees_its_engine(start: Start) -> None:
    gateway = start(max_num_seqs=2, step_ms=50.0)
    client = gateway.client()
    made = client.responses.create(model="model", input="long", max_output_tokens=200, background=True)
    gateway.until(lambda: gateway.status["running"] == 1)
    with pytest.raises(openai.BadRequestError, match="in_progress"):
        client.responses.create(model="model", input="x", previous_response_id=made.id)
    assert client.responses.cancel(made.id).status == "cancelled"
    gateway.until(lambda: gateway.status["running"] == 0)
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_a_fault_is_found_in_its_place(gateway: Running) -> None:
    client = gateway.client()
    made = client.responses.create(model="model", input="x", temperature=7, background=True)
    found = until_ended(client, made.id)
    assert found.status == "failed" and found.error is not None and "temperature" in found.error.message


@pytest.mark.parametrize("more", [{"stream": True}, {"store": False}])
def test_what_cannot_be_looked_up_is_refused(gateway: Running, more: dict[str, bool]) -> None:
    with pytest.raises(openai.BadRequestError, match="background"):
        gateway.client().responses.create(model="model", input="x", background=True, **more)  # type: ignore[call-overload]
