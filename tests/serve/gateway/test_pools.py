"""A gateway with several members: each has a pool of its own, and clients choose by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from pennyweight import formats
from pennyweight.deployment import Deployment
from pennyweight.service import Service
from tests.serve.gateway.gateways import Running, running

ASK = [{"role": "user", "content": "Say it again"}]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path) -> Iterator[Running]:
    """`quick` answers at once and one at a time; `slow`, with an alias, takes its time."""
    directory = tmp_path_factory.mktemp("service")
    members = {
        "quick": Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", {"max_num_seqs": 1}),
        "slow": Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", {"step_ms": 50.0}),
    }
    routes = {"quick": "quick", "slow": "slow", "patient": "slow"}
    formats.write("service", directory / "service.json", Service(members, routes, {"slow": 2}))
    with running(directory) as made:
        yield made


def test_every_name_is_listed_and_answered(two: Running) -> None:
    client = two.client()
    assert [card.id for card in client.models.list().data] == ["quick", "slow", "patient"]
    for name in ("quick", "slow", "patient"):
        answered = client.chat.completions.create(model=name, messages=ASK, max_tokens=4)  # type: ignore[arg-type]
        assert answered.usage is not None and answered.usage.completion_tokens == 4
        assert answered.model == name


def test_a_wrong_name_gets_the_list_of_right_ones(two: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="use 'quick', 'slow', 'patient'"):
        two.client().chat.completions.create(model="fast", messages=ASK)  # type: ignore[arg-type]


def test_each_member_has_replicas_and_capacity_of_its_own(two: Running) -> None:
    replicas = two.status["replicas"]
    assert sorted(replica["member"] for replica in replicas) == ["quick", "slow", "slow"]
    client = two.client()

    def ask(name: str) -> int:
        made = client.chat.completions.create(model=name, messages=ASK, max_tokens=40)  # type: ignore[arg-type]
        assert made.usage is not None
        return made.usage.completion_tokens

    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(ask, "slow") for _ in range(6)]
        two.until(lambda: two.status["running"] >= 4)
        assert ask("quick") == 40  # whatever waits for the other
        assert not all(one.done() for one in waiting)
        assert [one.result() for one in waiting] == [40] * 6


def test_aliases_of_a_single_deployment(deployed: Callable[..., Path]) -> None:
    with running(deployed(), "--served-model-name", "one", "two") as made:
        client = made.client()
        assert [card.id for card in client.models.list().data] == ["one", "two"]
        with pytest.raises(openai.NotFoundError, match="use 'one', 'two'"):
            client.chat.completions.create(model="model", messages=ASK)  # type: ignore[arg-type]
