"""Quality: the gates on what is served, paired with the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pennyweight import codec
from pennyweight.budget import Budget, Outcome
from pennyweight.deployment import Deployment
from pennyweight.errors import EndpointError, WorkloadError
from pennyweight.evidence import Reference
from pennyweight.measure import quality
from pennyweight.measure.quality import Pair, look_sizes, measure_pairs
from pennyweight.serve import Endpoint, open_engine
from pennyweight.workload import Request, Workload

MARGIN = Budget(max_added_nats=0.02)


def workload(count: int = 20, *, sessions: int | None = None, wrong: int = 0) -> Workload:
    """The scripted engine repeats the prompt, so that `contains` of its text is right, and of another wrong."""
    return Workload(
        "w",
        tuple(
            Request(
                f"r{n}",
                f"s{n % (sessions or count)}",
                24,
                prompt=f"word {n}",
                scorer="contains",
                reference="absent" if n < wrong else f"word {n}",
            )
            for n in range(count)
        ),
    )


@pytest.fixture(scope="module")
def lossy(tokenizer_directory: Path) -> Iterator[Endpoint]:
    with open_engine(Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", {"loss": 0.5})) as endpoint:
        yield endpoint


def references(endpoint: Endpoint, asked: Workload) -> dict[str, Reference]:
    return {reference.request_id: reference for reference in quality.references(endpoint, asked.requests)}


def evaluate(candidate: Endpoint, baseline: Endpoint, asked: Workload, budget: Budget = MARGIN) -> quality.Evaluation:
    return quality.evaluate(candidate, asked, references(baseline, asked), budget)


def test_a_reference_is_the_baselines_answer_with_its_own_likelihood(scripted_endpoint: Endpoint) -> None:
    (reference, *_) = references(scripted_endpoint, workload()).values()
    assert len(reference.answer) == 24
    assert reference.answer[: len(reference.prompt)] == reference.prompt[:24]
    assert reference.logprobs == (-0.5,) * 24
    assert all(reference.agreed) and reference.right is True
    assert codec.value_of(Reference, codec.plain(reference), "here") == reference


def test_the_baseline_held_against_itself_is_accepted_with_nothing_added(scripted_endpoint: Endpoint) -> None:
    result = evaluate(scripted_endpoint, scripted_endpoint, workload())
    assert result.verdict.outcome is Outcome.ACCEPT
    assert result.measurement["added_nats"] == 0.0
    assert result.measurement["agreement"] == 1.0


def test_a_candidate_that_lost_too_much_is_rejected_at_the_first_look(
    lossy: Endpoint, scripted_endpoint: Endpoint
) -> None:
    result = evaluate(lossy, scripted_endpoint, workload(40))
    assert result.verdict.outcome is Outcome.REJECT
    assert result.measurement["added_nats"] == pytest.approx(0.5)
    assert result.measurement.conditions["requests"] == 16
    assert "added_nats" in result.verdict.reason


def test_a_loss_inside_the_margin_is_accepted(lossy: Endpoint, scripted_endpoint: Endpoint) -> None:
    result = evaluate(lossy, scripted_endpoint, workload(), Budget(max_added_nats=0.6))
    assert result.verdict.outcome is Outcome.ACCEPT
    assert result.measurement["added_nats"] == pytest.approx(0.5)


def test_a_candidate_better_than_the_baseline_is_accepted(lossy: Endpoint, scripted_endpoint: Endpoint) -> None:
    result = evaluate(scripted_endpoint, lossy, workload())
    assert result.verdict.outcome is Outcome.ACCEPT
    assert result.measurement["added_nats"] == pytest.approx(-0.5)


def test_too_few_sessions_settle_nothing(scripted_endpoint: Endpoint) -> None:
    result = evaluate(scripted_endpoint, scripted_endpoint, workload(20, sessions=4))
    assert result.verdict.outcome is Outcome.INCONCLUSIVE
    assert result.measurement.conditions["requests"] == 20


def test_task_scores_are_those_of_the_answers(scripted_endpoint: Endpoint) -> None:
    result = evaluate(scripted_endpoint, scripted_endpoint, workload(16, wrong=4), Budget(max_degradation=0.01))
    assert result.measurement["task_score"] == result.measurement["baseline_task_score"] == 0.75
    assert result.measurement["degradation"] == 0.0
    assert result.verdict.outcome is Outcome.INCONCLUSIVE  # sixteen requests cannot prove a margin of 1%


def test_answers_are_scored_without_a_task_gate_too(scripted_endpoint: Endpoint) -> None:
    assert evaluate(scripted_endpoint, scripted_endpoint, workload(8)).measurement["task_score"] == 1.0


def test_references_of_another_workload_are_refused(scripted_endpoint: Endpoint) -> None:
    with pytest.raises(WorkloadError, match="baseline answer"):
        quality.evaluate(scripted_endpoint, workload(), {}, MARGIN)


def test_progress_reaches_all_requests(scripted_endpoint: Endpoint) -> None:
    counts: list[tuple[int, int]] = []
    asked = workload(20, sessions=4)
    held = references(scripted_endpoint, asked)
    quality.evaluate(scripted_endpoint, asked, held, MARGIN, progress=lambda *count: counts.append(count))
    assert counts[-1] == (20, 20) and counts == sorted(counts)


def test_a_request_that_the_server_refuses_is_an_endpoint_error(scripted_endpoint: Endpoint) -> None:
    with pytest.raises(EndpointError, match="256"):
        quality.references(scripted_endpoint, [Request("r", "s", 9999, prompt="x")])


def test_a_server_that_is_not_there_is_an_endpoint_error(scripted_endpoint: Endpoint) -> None:
    asked = workload(8)
    held = references(scripted_endpoint, asked)
    with pytest.raises(EndpointError, match="is it running"):
        quality.evaluate(Endpoint("http://127.0.0.1:9", "model"), asked, held, MARGIN)


# -- without a server --


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (16, [16]), (17, [16, 17]), (32, [16, 32]), (40, [16, 32, 40]), (64, [16, 32, 64])]
)
def test_looks_double_until_all_are_seen(count: int, sizes: list[int]) -> None:
    assert look_sizes(count) == sizes


def pair(number: int, nats: float, before: bool | None = None, after: bool | None = None) -> Pair:
    return Pair(f"r{number}", f"s{number}", nats, 0.9, before, after)


def outcome(pairs: list[Pair], budget: Budget = MARGIN, confidence: float = 0.95) -> Outcome:
    return budget.judge_limits(measure_pairs("x", pairs, confidence), budget.quality_limits).outcome


@pytest.mark.parametrize(
    ("centre", "spread", "expected"),
    [
        (0.0, 0.01, Outcome.ACCEPT),
        (0.02, 0.05, Outcome.INCONCLUSIVE),
        (0.1, 0.01, Outcome.REJECT),
        (0.0, 0.5, Outcome.INCONCLUSIVE),
    ],
)
def test_the_interval_decides_and_not_the_mean(centre: float, spread: float, expected: Outcome) -> None:
    assert outcome([pair(n, centre + spread * (-1) ** n) for n in range(20)]) is expected


@pytest.mark.parametrize(("lost", "expected"), [(0, Outcome.ACCEPT), (3, Outcome.INCONCLUSIVE), (40, Outcome.REJECT)])
def test_lost_tasks_are_held_against_the_degradation_margin(lost: int, expected: Outcome) -> None:
    pairs = [pair(n, 0.0, True, n >= lost) for n in range(80)]
    assert outcome(pairs, Budget(max_added_nats=None, max_degradation=0.05)) is expected


def test_degradation_is_a_share_of_the_baselines_score() -> None:
    pairs = [pair(n, 0.0, n < 50, n < 40) for n in range(100)]
    found = measure_pairs("x", pairs, 0.95)
    assert (found["baseline_task_score"], found["task_score"]) == (0.5, 0.4)
    assert found["degradation"] == pytest.approx(0.2)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("right", [0, 1])
def test_a_baseline_that_can_hardly_do_the_task_proves_nothing(right: int) -> None:
    pairs = [pair(n, 0.0, n < right, n < right) for n in range(10)]
    assert outcome(pairs, Budget(max_added_nats=None, max_degradation=0.01)) is not Outcome.ACCEPT


def test_unlabelled_pairs_have_no_task_score_and_so_pass_no_task_gate() -> None:
    found = measure_pairs("x", [pair(n, 0.0) for n in range(10)], 0.95)
    assert "degradation" not in found
    assert outcome([pair(n, 0.0) for n in range(10)], Budget(max_degradation=0.01)) is Outcome.REJECT


def test_requests_of_one_session_count_once() -> None:
    pairs = [Pair(f"a{n}", "one", 1.0, 1.0, None, None) for n in range(10)] + [pair(n, 0.0) for n in range(9)]
    found = measure_pairs("x", pairs, 0.95)
    assert found["added_nats"] == pytest.approx(0.1)
    assert found.conditions["sessions"] == 10
