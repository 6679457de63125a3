"""Comparison: the ratio of two speeds and what its interval is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pennyweight import codec
from pennyweight.deployment import Deployment
from pennyweight.measure import replay
from pennyweight.measure.compare import Opener, compare, summarise
from pennyweight.measurement import Comparison
from pennyweight.serve import Endpoint, open_engine
from pennyweight.workload import Arrivals, Request, Workload

WORKLOAD = Workload("w", tuple(Request(f"r{n}", f"s{n}", 24, prompt=f"Tell me about {n}") for n in range(4)))
BRIEF = Workload("brief", (Request("r", "s", 3, prompt="Hello"),))


@pytest.fixture(scope="module")
def pace(tokenizer_directory: Path) -> Iterator[dict[int, Endpoint]]:
    """Endpoints by the milliseconds of their step."""
    with ExitStack() as stack:
        yield {
            ms: stack.enter_context(
                open_engine(Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", {"step_ms": float(ms)}))
            )
            for ms in (4, 8)
        }


@pytest.fixture(autouse=True)
def _busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "LONGEST_LAG", 5.0)


def opener(endpoint: Endpoint, log: list[Endpoint] | None = None) -> Opener:
    def open_it(stack: ExitStack) -> Endpoint:
        if log is not None:
            log.append(endpoint)
        return endpoint

    return open_it


@pytest.mark.slow
@pytest.mark.measures
def test_twice_the_pace_is_a_ratio_of_two(pace: dict[int, Endpoint]) -> None:
    result = compare(opener(pace[4]), opener(pace[8]), WORKLOAD, Arrivals(max_concurrency=2), rounds=3, warm_with=BRIEF)
    assert 1.5 < result.ratio < 2.3
    assert result.interval[0] > 1.0 and not result.within_noise


@pytest.mark.slow
@pytest.mark.measures
def test_the_same_endpoint_twice_is_about_one(pace: dict[int, Endpoint]) -> None:
    result = compare(opener(pace[4]), opener(pace[4]), WORKLOAD, Arrivals(max_concurrency=2), rounds=3, warm_with=BRIEF)
    assert 0.8 < result.ratio < 1.25
    assert result.interval[0] < 1.05 and result.interval[1] > 0.95


def test_the_order_turns_each_round_and_all_runs_are_counted(pace: dict[int, Endpoint]) -> None:
    order: list[Endpoint] = []
    counts: list[tuple[int, int]] = []
    one = Workload("w", WORKLOAD.requests[:1])
    a, b = pace[4], pace[8]
    result = compare(
        opener(a, order),
        opener(b, order),
        one,
        Arrivals(),
        rounds=3,
        seed=7,
        warm_with=BRIEF,
        progress=lambda *count: counts.append(count),
    )
    assert order == [a, b, b, a, a, b]
    assert counts[-1] == (6, 6)
    assert len(result.a_tokens_per_s) == len(result.b_tokens_per_s) == 3


# -- without a server --


def test_the_ratio_is_that_of_the_pairs() -> None:
    result = summarise([20, 40, 10], [10, 20, 5])
    assert result.ratio == pytest.approx(2.0)
    assert result.interval == pytest.approx((2.0, 2.0))
    assert not result.within_noise


def test_turning_the_sides_turns_the_ratio() -> None:
    one, other = summarise([10, 12, 9], [5, 7, 6]), summarise([5, 7, 6], [10, 12, 9])
    assert other.ratio == pytest.approx(1 / one.ratio)
    assert other.interval == pytest.approx((1 / one.interval[1], 1 / one.interval[0]))


def test_a_difference_smaller_than_the_spread_is_noise() -> None:
    result = summarise([10, 14, 9], [11, 10, 10])
    assert result.within_noise and result.interval[0] < result.ratio < result.interval[1]


def test_one_pair_alone_proves_nothing() -> None:
    result = summarise([50], [10])
    assert result.ratio == pytest.approx(5.0)
    assert result.interval == (0.0, math.inf) and result.within_noise


def test_more_confidence_is_a_wider_interval() -> None:
    narrow, wide = (summarise([10, 12, 9], [5, 7, 6], confidence).interval for confidence in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_json_holds_every_run() -> None:
    compared = summarise([20, 40], [10, 20])
    value = codec.plain(compared)
    assert value["a_tokens_per_s"] == [20, 40] and value["b_tokens_per_s"] == [10, 20]
    assert value["interval"] == pytest.approx([2.0, 2.0]) and compared.within_noise is False
    assert codec.value_of(Comparison, value, "here") == compared


@pytest.mark.parametrize(
    ("interval", "says"),
    [((1.5, 2.5), "1.50 to 2.50"), ((0.0, float("inf")), "too few rounds"), ((0.0, 3981632123.0), "too few rounds")],
)
def test_an_interval_without_a_bound_is_not_printed(interval: tuple[float, float], says: str) -> None:
    assert says in Comparison(2.0, interval, (2.0,), (1.0,)).describe_interval()
