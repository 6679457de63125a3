"""The first look has seen every kind, script and length."""

from __future__ import annotations

from pennyweight.measure.proof.strata import in_turns, script_of
from pennyweight.workload import Request, Workload


def made(count: int) -> Workload:
    requests = []
    for n in range(count):
        kind = "rare" if n % 10 == 0 else "usual"
        text = ("Привет " if n % 7 == 0 else "hello ") * (1 + n % 4)
        requests.append(Request(f"r{n}", f"s{n}", 8, prompt=f"{text}{n}", kind=kind))
    return Workload("w", tuple(requests))


def test_every_request_comes_once_and_in_the_same_order_each_time() -> None:
    order = [request.id for request in in_turns(made(100))]
    assert sorted(order) == sorted(request.id for request in made(100).requests)
    assert order == [request.id for request in in_turns(made(100))]


def test_a_look_has_each_stratum_in_its_share() -> None:
    looked = in_turns(made(200))[:64]
    assert 5 <= sum(request.kind == "rare" for request in looked) <= 8
    assert 7 <= sum(script_of(request) == "CYRILLIC" for request in looked) <= 12


def test_scripts_are_told_apart() -> None:
    assert [script_of(Request("r", "s", 1, prompt=text)) for text in ("abc", "日本語", "12")] == ["LATIN", "CJK", ""]
