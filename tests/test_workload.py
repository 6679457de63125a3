"""Workload: splitting, cutting and repeating keep sessions whole and requests apart."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pennyweight.errors import UsageError, WorkloadError
from pennyweight.workload import Arrivals, PromptShape, Request, Workload, texts

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

session_lists = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30)
seeds = st.integers(0, 5)


def workload_of(sessions: list[str]) -> Workload:
    return Workload("w", tuple(Request(f"r{i}", s, 8, prompt=f"prompt {i}") for i, s in enumerate(sessions)))


workloads = session_lists.map(workload_of)
splittable = session_lists.filter(lambda s: len(set(s)) > 1).map(workload_of)


def ids(workload: Workload) -> list[str]:
    return [request.id for request in workload.requests]


@STEADY
@given(splittable, seeds)
def test_split_keeps_every_request_once_and_cuts_no_session(workload: Workload, seed: int) -> None:
    tuning, held_out = workload.split(seed)
    assert sorted(ids(tuning) + ids(held_out)) == sorted(ids(workload))
    assert not {r.session for r in tuning.requests} & {r.session for r in held_out.requests}


@STEADY
@given(splittable, seeds)
def test_split_halves_the_sessions(workload: Workload, seed: int) -> None:
    one, other = (len({r.session for r in half.requests}) for half in workload.split(seed))
    assert 0 <= other - one <= 1


@STEADY
@given(splittable, seeds, st.randoms(use_true_random=False))
def test_split_does_not_depend_on_the_order_of_the_file(workload: Workload, seed: int, chance: random.Random) -> None:
    shuffled = list(workload.requests)
    chance.shuffle(shuffled)
    for half, again in zip(workload.split(seed), Workload("w", tuple(shuffled)).split(seed), strict=True):
        assert set(ids(half)) == set(ids(again))


@STEADY
@given(splittable, seeds)
def test_split_keeps_the_order_within_a_half(workload: Workload, seed: int) -> None:
    for half in workload.split(seed):
        assert ids(half) == [i for i in ids(workload) if i in set(ids(half))]


def test_another_seed_gives_another_split() -> None:
    workload = workload_of([str(i) for i in range(40)])
    assert len({tuple(ids(workload.split(seed)[0])) for seed in range(5)}) == 5


def test_one_session_cannot_be_split() -> None:
    with pytest.raises(WorkloadError, match="at least two sessions"):
        workload_of(["a", "a", "a"]).split()


@STEADY
@given(workloads, st.integers(1, 40), seeds)
def test_take_gives_so_many_requests_in_their_own_order(workload: Workload, count: int, seed: int) -> None:
    taken = ids(workload.take(count, seed))
    assert len(taken) == min(count, len(workload.requests))
    assert taken == [i for i in ids(workload) if i in set(taken)]
    assert taken == ids(workload.take(count, seed))


@STEADY
@given(st.lists(st.sampled_from("abc"), min_size=4, max_size=14).map(workload_of), st.integers(1, 12), seeds)
def test_take_cuts_at_most_one_session(workload: Workload, count: int, seed: int) -> None:
    whole = Counter(r.session for r in workload.requests)
    taken = Counter(r.session for r in workload.take(count, seed).requests)
    assert sum(taken[session] < whole[session] for session in taken) <= 1


def test_take_samples_and_does_not_just_read_the_head() -> None:
    workload = workload_of([str(i) for i in range(100)])
    assert len({tuple(ids(workload.take(10, seed))) for seed in range(5)}) == 5
    assert ids(workload.take(10)) != ids(workload)[:10]


def test_take_without_a_count_takes_all() -> None:
    workload = workload_of(["a", "b"])
    assert workload.take(None) == workload


@pytest.mark.parametrize("count", [0, -1])
def test_take_refuses_a_count_that_leaves_nothing(count: int) -> None:
    with pytest.raises(UsageError, match=f"--num-prompts {count}"):
        workload_of(["a", "b"]).take(count)


@STEADY
@given(workloads, st.integers(0, 100))
def test_at_least_reaches_the_count_with_ids_that_are_unique(workload: Workload, count: int) -> None:
    repeated = workload.at_least(count)
    assert len(repeated.requests) == max(count, len(workload.requests))
    assert len(set(ids(repeated))) == len(repeated.requests)
    assert repeated.requests[: len(workload.requests)] == workload.requests


@STEADY
@given(workloads, st.integers(2, 60))
def test_the_copies_of_at_least_share_no_session_with_the_original(workload: Workload, count: int) -> None:
    size = len(workload.requests)
    repeated = workload.at_least(count).requests
    for start in range(size, len(repeated), size):
        assert not {r.session for r in repeated[:size]} & {r.session for r in repeated[start : start + size]}


def test_copies_of_text_begin_differently() -> None:
    chat = Request("c", "c", 8, messages=({"role": "system", "content": "Hush."}, {"role": "user", "content": "Hi"}))
    plain = Request("p", "p", 8, prompt="Once upon a time")
    repeated = Workload("w", (chat, plain)).at_least(80).requests
    assert len({r.messages[0]["content"][:5] for r in repeated if r.messages}) == 40
    assert len({r.prompt[:5] for r in repeated if r.prompt}) == 40


@STEADY
@given(workloads, st.integers(1, 9))
def test_a_variant_asks_the_same_with_texts_that_begin_differently(workload: Workload, number: int) -> None:
    varied = workload.variant(number)
    assert [r.max_tokens for r in varied.requests] == [r.max_tokens for r in workload.requests]
    assert all(one.prompt in other.prompt for one, other in zip(workload.requests, varied.requests, strict=True))
    assert not {r.prompt for r in varied.requests} & {r.prompt for r in workload.requests}
    assert not {r.prompt for r in varied.requests} & {r.prompt for r in workload.variant(number + 1).requests}


def test_copies_keep_the_kind_that_several_sessions_have() -> None:
    """A mixture decides by it. Instructions of one session alone are marked, as a prefix cache would know them."""
    asked = [("Sort.", "a"), ("Sort.", "b"), ("A long document of this session alone.", "c")]
    requests = tuple(
        Request(name, name, 8, messages=({"role": "system", "content": said}, {"role": "user", "content": name}))
        for said, name in asked
    )
    workload = Workload("w", requests)
    for copies in (
        workload.variant(3).requests,
        workload.at_least(6).requests[3:],
        workload.variant(1).variant(2).requests,
    ):
        assert [r.messages[0]["content"] for r in copies[:2]] == ["Sort.", "Sort."]
        assert [r.messages[-1]["content"] != name for r, (_, name) in zip(copies, asked, strict=True)] == [True] * 3
        assert copies[2].messages[0]["content"] != asked[2][0]


def test_copies_of_tokens_begin_differently() -> None:
    request = Request("t", "t", 8, prompt_tokens=tuple(range(100, 124)))
    repeated = Workload("w", (request,)).at_least(64).requests
    assert {len(r.prompt_tokens) for r in repeated} == {24}
    assert len({r.prompt_tokens for r in repeated}) == 64


def test_copies_of_tokens_differ_even_where_the_first_tokens_repeat() -> None:
    request = Request("t", "t", 8, prompt_tokens=(7, 7, 7, 7, 8, 9, 10, 11))
    assert len({r.prompt_tokens for r in Workload("w", (request,)).at_least(4).requests}) == 4


def test_an_empty_workload_is_refused() -> None:
    with pytest.raises(WorkloadError, match="no requests"):
        Workload("w", ())


@pytest.mark.parametrize(
    "change",
    [
        Request("r", "s", 9, prompt="p"),
        Request("r", "s", 8, prompt="q"),
        Request("r", "s", 8, prompt="p", reference="1", scorer="exact"),
        Request("r", "s", 8, prompt="p", arrival=1.0),
        Request("r", "s", 8, shape=PromptShape(5)),
    ],
)
def test_the_id_follows_the_content_and_not_the_name(change: Request) -> None:
    same = Request("r", "s", 8, prompt="p")
    assert Workload("one", (same,)).id == Workload("two", (same,)).id
    assert Workload("one", (change,)).id != Workload("one", (same,)).id


def test_labelled_requests_have_a_reference_and_a_scorer() -> None:
    good = Request("a", "a", 1, prompt="p", reference="4", scorer="numeric")
    half = Request("b", "b", 1, prompt="p", reference="4")
    assert Workload("w", (good, half)).labelled == (good,)


def test_texts_are_those_of_requests_that_have_any() -> None:
    requests = (
        Request("a", "a", 1, messages=({"role": "user", "content": "x"}, {"role": "assistant", "content": "y"})),
        Request("b", "b", 1, prompt="z"),
        Request("c", "c", 1, prompt_tokens=(1, 2)),
    )
    assert texts(requests) == ["x\n\ny", "z"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"kind": "burst"}, "burst"),
        ({"kind": "closed", "max_concurrency": 0}, "--max-concurrency"),
        ({"kind": "poisson"}, "--request-rate"),
        ({"kind": "gamma", "request_rate": -1.0}, "--request-rate"),
        ({"kind": "gamma", "request_rate": 1.0, "burstiness": 0.0}, "--burstiness"),
        ({"kind": "recorded", "time_scale": 0.0}, "--time-scale"),
    ],
)
def test_arrivals_that_cannot_be_sent_are_refused(arguments: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Arrivals(**arguments)  # type: ignore[arg-type]
