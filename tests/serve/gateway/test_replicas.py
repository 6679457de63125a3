"""Which engine gets a request: the least busy one, or one that knows its beginning and is hardly busier."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pennyweight.errors import EngineError
from pennyweight.serve.gateway.reading import BLOCK, blocks_of
from pennyweight.serve.gateway.replicas import BEGINNINGS, Replica, Replicas, State
from pennyweight.serve.gateway.settings import GatewaySettings
from tests.serve.gateway.asks import DEPLOYMENT

HELLO, OTHER = "You are a helpful assistant. " * 40, "Translate into French, please. " * 40


@pytest.fixture
def three(tmp_path: Path) -> Replicas:
    made = Replicas(DEPLOYMENT, ("model",), GatewaySettings(), count=3, logs=tmp_path, numbers=itertools.count(1))
    process: Any = SimpleNamespace(alive=True)
    made.all = [Replica(number, process, 8, State.READY) for number in (1, 2, 3)]
    return made


def chosen(replicas: Replicas, text: str = "", avoid: tuple[int, ...] = ()) -> Replica:
    return asyncio.run(replicas.choose(blocks_of(text), avoid, 0.05))


def test_the_least_busy_one_is_asked(three: Replicas) -> None:
    for cost in (300, 100, 200):
        chosen(three).take(cost, ())
    assert [replica.outstanding for replica in three.all] == [300, 100, 200]
    assert chosen(three).number == 2
    three.all[0].give_back(300)
    assert chosen(three).number == 1


def test_one_that_knows_the_beginning_is_asked_while_it_is_hardly_busier(three: Replicas) -> None:
    knowing = three.all[2]
    knowing.take(1000, blocks_of(HELLO))
    knowing.give_back(1000)
    assert chosen(three, HELLO + "And now?").number == 3
    assert chosen(three, OTHER).number == 1
    knowing.take(1000, ())
    three.all[0].take(900, ())
    three.all[1].take(800, ())
    assert chosen(three, HELLO).number == 3  # a fifth busier
    three.all[1].give_back(700)
    assert chosen(three, HELLO).number == 2  # ten times as busy


def test_the_longest_known_beginning_counts(three: Replicas) -> None:
    three.all[0].take(0, blocks_of(HELLO[:BLOCK]))
    three.all[1].take(0, blocks_of(HELLO))
    assert chosen(three, HELLO + OTHER).number == 2


def test_a_replica_forgets_what_it_was_not_asked_for_long(three: Replicas) -> None:
    one = three.all[0]
    one.take(0, blocks_of(HELLO))
    assert one.knows(blocks_of(HELLO)) == len(blocks_of(HELLO)) > 3
    one.take(0, range(BEGINNINGS))
    assert one.knows(blocks_of(HELLO)) == 0


def test_those_that_lost_the_request_are_avoided_and_nobody_is_asked_where_none_is_ready(three: Replicas) -> None:
    assert chosen(three, avoid=(1, 2)).number == 3
    for replica in three.all:
        replica.state = State.DEAD
    with pytest.raises(EngineError, match="No engine"):
        chosen(three)
