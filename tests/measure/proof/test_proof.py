"""The proof on running endpoints: what is served, paired with the baseline's answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pennyweight import codec
from pennyweight.budget import Budget, Outcome
from pennyweight.deployment import Deployment
from pennyweight.errors import EndpointError, WorkloadError
from pennyweight.evidence import Reference
from pennyweight.measure.proof import proof
from pennyweight.measure.proof.references import references as answers_of
from pennyweight.serve import Endpoint, open_engine
from pennyweight.workload import Request, Workload
from tests.measure.proof.stripped import StrippedServer

MARGIN = Budget(max_added_nats=0.02)


def workload(count: int = 64, *, sessions: int | None = None, wrong: int = 0) -> Workload:
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
    return {reference.request_id: reference for reference in answers_of(endpoint, asked.requests)}


def evaluate(candidate: Endpoint, baseline: Endpoint, asked: Workload, budget: Budget = MARGIN) -> proof.Evaluation:
    return proof.evaluate(candidate, asked, references(baseline, asked), budget)


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
    assert result.measurement["scored_nats"] == pytest.approx(0.5)
    assert result.measurement.conditions["requests"] == 40
    assert "added_nats" in result.verdict.reason


def test_a_loss_inside_the_margin_is_accepted(lossy: Endpoint, scripted_endpoint: Endpoint) -> None:
    result = evaluate(lossy, scripted_endpoint, workload(), Budget(max_added_nats=1.0, max_divergence=2.0))
    assert result.verdict.outcome is Outcome.ACCEPT
    assert result.measurement["added_nats"] == pytest.approx(0.5)


def test_a_candidate_better_than_the_baseline_is_accepted(lossy: Endpoint, scripted_endpoint: Endpoint) -> None:
    result = evaluate(scripted_endpoint, lossy, workload(), Budget(max_divergence=2.0))
    assert result.verdict.outcome is Outcome.ACCEPT
    assert result.measurement["scored_nats"] == pytest.approx(-0.5)


def test_too_few_sessions_settle_nothing(scripted_endpoint: Endpoint) -> None:
    result = evaluate(scripted_endpoint, scripted_endpoint, workload(64, sessions=4))
    assert result.verdict.outcome is Outcome.INCONCLUSIVE
    assert result.measurement.conditions["requests"] == 64


def test_task_scores_are_those_of_the_answers(scripted_endpoint: Endpoint) -> None:
    result = evaluate(scripted_endpoint, scripted_endpoint, workload(16, wrong=4), Budget(max_degradation=0.01))
    assert result.measurement["task_score"] == result.measurement["baseline_task_score"] == 0.75
    assert result.measurement["degradation"] == 0.0
    assert result.verdict.outcome is Outcome.INCONCLUSIVE  # sixteen requests cannot prove a margin of 1%


def test_answers_are_scored_without_a_task_gate_too(scripted_endpoint: Endpoint) -> None:
    assert evaluate(scripted_endpoint, scripted_endpoint, workload(8)).measurement["task_score"] == 1.0


def test_references_of_another_workload_are_refused(scripted_endpoint: Endpoint) -> None:
    with pytest.raises(WorkloadError, match="baseline answer"):
        proof.evaluate(scripted_endpoint, workload(), {}, MARGIN)


def test_progress_reaches_all_requests(scripted_endpoint: Endpoint) -> None:
    counts: list[tuple[int, int]] = []
    asked = workload(20, sessions=4)
    held = references(scripted_endpoint, asked)
    proof.evaluate(scripted_endpoint, asked, held, MARGIN, progress=lambda *count: counts.append(count))
    assert counts[-1] == (20, 20) and counts == sorted(counts)


def test_a_request_that_the_server_refuses_is_an_endpoint_error(scripted_endpoint: Endpoint) -> None:
    with pytest.raises(EndpointError, match="512"):
        answers_of(scripted_endpoint, [Request("r", "s", 9999, prompt="x")])


def test_a_server_that_is_not_there_is_an_endpoint_error(scripted_endpoint: Endpoint) -> None:
    asked = workload(8)
    held = references(scripted_endpoint, asked)
    with pytest.raises(EndpointError, match="is it running"):
        proof.evaluate(Endpoint("http://127.0.0.1:9", "model"), asked, held, MARGIN)


# -- servers of others --


@pytest.fixture(scope="module")
def unscored(scripted_endpoint: Endpoint) -> Iterator[Endpoint]:
    """The same answers from a server that scores nothing and gives no token ids, as OpenAI's own."""
    with StrippedServer(scripted_endpoint) as endpoint:
        yield endpoint


def test_an_endpoint_without_scores_is_proven_in_part_and_says_so(
    unscored: Endpoint, scripted_endpoint: Endpoint
) -> None:
    result = evaluate(unscored, scripted_endpoint, workload(wrong=4))
    left_out = result.measurement.conditions["left_out"]
    assert set(left_out) == {"added_nats", "divergence", "departures", "tail_share", "agreement"}
    assert result.verdict.outcome is Outcome.ACCEPT
    judged = {one.limit.quantity for one in result.verdict.limits}
    assert judged == {"different_prompts", "empty_answers", "different_texts", "ending_shift", "length_shift"}
    assert result.measurement["task_score"] == result.measurement["baseline_task_score"]


def test_a_baseline_without_token_ids_is_refused(unscored: Endpoint) -> None:
    with pytest.raises(EndpointError, match="no token ids"):
        answers_of(unscored, workload(2).requests)
