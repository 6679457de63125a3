"""Each part sees the defect that it is for, on pairs made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pennyweight.budget import Budget, Outcome
from pennyweight.measure.proof import decode, weights
from pennyweight.measure.proof.asking import Scored
from pennyweight.measure.proof.pair import Continued, Pair
from pennyweight.measure.proof.proof import judged, without_end
from pennyweight.measure.proof.weights import divergence
from pennyweight.workload import Request
from tests.measure.proof.made import LENGTH, OWN, pair, units

ERROR = 0.025
BUDGET = Budget(max_added_nats=0.02)


def verdict(pairs: list[Pair], budget: Budget = BUDGET) -> tuple[Outcome, set[str]]:
    """The outcome, and which limits were rejected."""
    _, found = judged(pairs, units(pairs), budget, ERROR)
    return found.outcome, {one.limit.quantity for one in found.limits if one.outcome is Outcome.REJECT}


def measured(pairs: list[Pair], budget: Budget = BUDGET):  # type: ignore[no-untyped-def]
    return judged(pairs, units(pairs), budget, ERROR)[0]


def test_the_same_again_is_accepted() -> None:
    assert verdict([pair(n) for n in range(64)]) == (Outcome.ACCEPT, set())


def test_too_few_requests_settle_nothing() -> None:
    assert verdict([pair(n) for n in range(8)])[0] is Outcome.INCONCLUSIVE


def test_copies_of_one_session_count_once() -> None:
    assert verdict([pair(n, unit=f"s{n % 8}") for n in range(64)])[0] is Outcome.INCONCLUSIVE


# -- same question --


def test_another_prompt_is_rejected_and_named() -> None:
    pairs = [pair(n) for n in range(64)]
    pairs[3] = pair(3, answered={"prompt": (1, 2, 9, 9)})
    assert verdict(pairs) == (Outcome.REJECT, {"different_prompts"})
    reasons = judged(pairs, units(pairs), BUDGET, ERROR)[1].reason
    assert "'r3'" in reasons and "place 2" in reasons


# -- weights --


def test_a_loss_beyond_the_margin_is_rejected() -> None:
    assert "added_nats" in verdict([pair(n, 0.05) for n in range(64)])[1]


def test_sharpening_scores_better_and_is_rejected_by_its_divergence() -> None:
    sharp = tuple(((100 + n, -0.01), (7, -6.0), (8, -7.0)) for n in range(LENGTH))
    pairs = [pair(n, -0.49, tops=sharp) for n in range(64)]
    outcome, rejected = verdict(pairs)
    assert (outcome, rejected) == (Outcome.REJECT, {"divergence"})
    assert measured(pairs)["scored_nats"] < 0


def test_divergence_is_zero_for_equal_and_positive_both_ways() -> None:
    usual, sharp = ((1, -0.5), (2, -1.5)), ((1, -0.1), (2, -3.0))
    assert divergence(usual, usual) == pytest.approx(0.0)
    assert divergence(usual, sharp) > 0.05 and divergence(sharp, usual) > 0.05
    assert divergence(usual, ((8, -0.1), (9, -3.0))) > 1  # no token in common


def test_the_end_token_is_scored() -> None:
    one = pair(0, end=99, finish="stop")
    assert one.tokens == LENGTH + 1 and one.reference.scored_tokens[-1] == 99


def test_losses_are_summed_over_tokens_and_not_over_answers() -> None:
    long, short = pair(0, 0.01, length=90), pair(1, 0.05, length=10)
    assert measured([long, short])["scored_nats"] == pytest.approx(0.014)


def test_agreement_is_a_limit_where_the_budget_has_one() -> None:
    other = tuple(((7, -0.4), (100 + n, OWN)) for n in range(LENGTH))
    pairs = [pair(n, tops=other) for n in range(64)]
    assert "agreement" in verdict(pairs, replace(BUDGET, min_agreement=0.9))[1]
    assert "agreement" not in verdict(pairs)[1]


def test_a_trimmed_vocabulary_scores_the_parts_of_a_token_as_one() -> None:
    ours = pair(0).reference
    translated = ours.translated(lambda token: (token, 900) if token == 100 else (token,))
    one = replace(pair(0), reference=translated)
    scored = Scored((-0.2, -0.3) + (OWN,) * (LENGTH - 1), (((1, -1.0),),) * (LENGTH + 1))
    one = replace(one, scored=scored)
    assert one.candidate_logprobs == pytest.approx((OWN,) * LENGTH)


# -- decode path --


def test_what_decoding_loses_counts_in_the_margin() -> None:
    pairs = [pair(n, decoded=0.05) for n in range(64)]
    assert measured(pairs)["scored_nats"] == pytest.approx(0.0)
    assert measured(pairs)["decode_added_nats"] == pytest.approx(0.05)
    assert "added_nats" in verdict(pairs)[1]


def test_tokens_are_compared_up_to_the_first_that_differs() -> None:
    sure = pair(0, answered={"tokens": (100, 55, 102), "logprobs": (OWN, -0.001, -9.0)})
    nats, count = decode.lost_in_decoding(sure)
    assert count == 2  # what follows another token is another text
    assert nats > 5  # it was sure of another token than the one that scoring prefers


def test_a_near_tie_that_falls_otherwise_loses_nothing() -> None:
    tie = pair(0, nats=0.2, answered={"tokens": (55,), "logprobs": (-0.69,)})
    assert decode.lost_in_decoding(tie)[0] == pytest.approx(0.0)


def test_continuations_from_the_middle_of_an_answer_are_compared() -> None:
    quiet = {"tokens": (), "logprobs": ()}
    one = pair(0, answered=quiet, continued=(Continued(5, (105, 106), (OWN - 0.1, OWN - 0.3)),))
    assert decode.lost_in_decoding(one) == (pytest.approx(0.4), 2)


def test_cuts_are_seeded_and_inside_the_answer() -> None:
    ours = pair(0).reference
    assert decode.cut_of(ours, 1) == decode.cut_of(ours, 1)
    assert all(1 <= cut <= LENGTH - 2 for cut in (decode.cut_of(ours, seed) for seed in range(50)))
    assert decode.cut_of(pair(0, length=2).reference, 0) is None


def test_answers_that_leave_what_scoring_is_sure_of_are_rejected() -> None:
    """With log-probabilities that look right, as from a server that answers something else."""
    canned = {"tokens": (55, 56, 57, *range(103, 100 + LENGTH)), "logprobs": (OWN,) * LENGTH}
    assert "departures" in verdict([pair(n, answered=canned) for n in range(64)])[1]


def test_a_near_tie_is_no_departure_and_an_early_end_is() -> None:
    tie = tuple(((100 + n, -0.69), (55, -0.70)) for n in range(LENGTH))
    assert not decode.departs(pair(0, tops=tie, answered={"tokens": (55,), "logprobs": (-0.7,)}))
    assert decode.departs(pair(0, answered={"tokens": (100,), "logprobs": (OWN,), "finish": "stop"}))
    assert not decode.departs(pair(0))
    going_on = {"tokens": tuple(range(100, 101 + LENGTH)), "logprobs": (OWN,) * (LENGTH + 1)}
    assert decode.departs(pair(0, end=99, finish="stop", answered=going_on))


@pytest.mark.parametrize("counts_end", [False, True])
def test_an_honest_answer_that_ends_by_itself_is_no_departure(counts_end: bool) -> None:
    one = pair(0, end=99, finish="stop")
    if counts_end:  # as vLLM's server does
        longer = (*(one.answered.tokens or ()), 99)
        raw = replace(one.answered, tokens=longer, logprobs=(*one.answered.logprobs, OWN))
        one = replace(one, answered=without_end(replace(raw, count=0), one.reference))
    assert one.answered.count == LENGTH and not decode.departs(one)
    assert verdict([pair(n, end=99, finish="stop") for n in range(64)]) == (Outcome.ACCEPT, set())


def test_an_answer_cut_at_its_limit_is_no_departure() -> None:
    shorter = {"tokens": tuple(range(100, 100 + LENGTH - 2)), "logprobs": (OWN,) * (LENGTH - 2), "finish": "length"}
    assert not decode.departs(pair(0, answered=shorter))


def test_log_probabilities_that_are_too_good_hide_no_loss_of_the_weights() -> None:
    flattering = {"logprobs": (0.0,) * LENGTH}
    pairs = [pair(n, 0.045, answered=flattering) for n in range(64)]
    assert "added_nats" in verdict(pairs)[1]
    assert measured(pairs)["added_nats"] == pytest.approx(0.045)


def test_missing_log_probabilities_are_named() -> None:
    pairs = [pair(n, answered={"logprobs": ()} if n else None) for n in range(64)]
    assert "2%" in measured(pairs).conditions["left_out"]["decode_added_nats"]
    assert "departures" in measured([pair(n, answered={"logprobs": ()}) for n in range(64)])


# -- endings --


def test_an_empty_answer_is_rejected_and_named() -> None:
    pairs = [pair(n) for n in range(64)]
    pairs[5] = pair(5, answered={"tokens": (), "logprobs": (), "finish": "stop"})
    assert "empty_answers" in verdict(pairs)[1]
    assert "'r5'" in judged(pairs, units(pairs), BUDGET, ERROR)[1].reason


def test_answers_that_never_end_are_rejected() -> None:
    tokens = tuple(range(100, 100 + LENGTH)) * 3
    run_on = {"tokens": tokens, "logprobs": (OWN,) * 60, "finish": "length"}
    pairs = [pair(n, finish="stop", end=99, answered=run_on) for n in range(64)]
    assert verdict(pairs)[1] >= {"ending_shift", "length_shift"}


def test_answers_that_end_at_once_are_rejected() -> None:
    cut = {"tokens": (100,), "logprobs": (OWN,), "finish": "stop"}
    assert verdict([pair(n, answered=cut) for n in range(64)])[1] >= {"ending_shift", "length_shift"}


def test_one_long_dialogue_leaves_the_endings_of_the_others_decidable() -> None:
    pairs = [pair(n, unit="long" if n < 12 else None) for n in range(64)]
    limits = judged(pairs, units(pairs), BUDGET, ERROR)[1].limits
    assert {one.limit.quantity: one.outcome for one in limits}["ending_shift"] is Outcome.ACCEPT


@pytest.mark.parametrize("text", ["", "\ufffd\ufffd"])
def test_the_right_tokens_as_another_text_are_rejected(text: str) -> None:
    assert verdict([pair(n, answered={"text": text}) for n in range(64)])[1] & {"empty_answers", "different_texts"}


# -- tails --


def test_few_requests_that_lose_everything_are_rejected_by_their_share() -> None:
    pairs = [pair(n, 3.0 if n % 5 == 0 else 0.0) for n in range(100)]
    assert "tail_share" in verdict(pairs)[1]


def test_the_tail_is_bounded_exactly() -> None:
    found = measured([pair(n) for n in range(64)]).quantities["tail_share"]
    assert found.interval is not None and found.interval[1] == pytest.approx(1 - ERROR ** (1 / 64))


def test_a_clipped_loss_counts_as_much_as_the_clip() -> None:
    pairs = [pair(n, 3.0 if n == 0 else 0.0) for n in range(100)]
    assert measured(pairs)["added_nats"] == pytest.approx(BUDGET.clip_nats / 100)
    assert weights.losses_of(pairs)[0] == pytest.approx(3.0)


# -- tasks and forms --


@pytest.mark.parametrize(("lost", "expected"), [(0, Outcome.ACCEPT), (4, Outcome.INCONCLUSIVE), (60, Outcome.REJECT)])
def test_lost_tasks_are_held_against_the_degradation_margin(lost: int, expected: Outcome) -> None:
    pairs = [pair(n, right=n >= lost) for n in range(200)]
    pairs = [replace(one, reference=replace(one.reference, right=True)) for one in pairs]
    assert verdict(pairs, Budget(max_added_nats=None, max_degradation=0.05))[0] is expected


def test_degradation_is_a_share_of_the_baselines_score() -> None:
    pairs = [pair(n, right=n < 40) for n in range(100)]
    pairs = [replace(one, reference=replace(one.reference, right=n < 50)) for n, one in enumerate(pairs)]
    found = measured(pairs)
    assert (found["baseline_task_score"], found["task_score"]) == (0.5, 0.4)
    assert found["degradation"] == pytest.approx(0.2)


def test_a_baseline_that_is_never_right_proves_nothing() -> None:
    pairs = [
        replace(one, reference=replace(one.reference, right=False)) for one in (pair(n, right=False) for n in range(99))
    ]
    assert verdict(pairs, Budget(max_added_nats=None, max_degradation=0.5))[0] is Outcome.INCONCLUSIVE


def test_unlabelled_pairs_pass_no_task_gate() -> None:
    assert "degradation" in verdict([pair(n) for n in range(64)], Budget(max_degradation=0.5))[1]


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORM = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}


def test_another_token_under_a_schema_is_no_loss() -> None:
    asked = Request("r0", "s0", LENGTH, prompt="x", fields=FORM)
    other = {"tokens": (100, 55), "logprobs": (OWN, -0.001)}
    plain, formed = (pair(0, request=request, answered=other) for request in (None, asked))
    assert decode.lost_in_decoding(plain)[0] > 5
    assert decode.lost_in_decoding(formed) == (0.0, 1)


def test_plain_text_where_the_reference_called_a_tool_is_rejected() -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "any"}}}]}

    def one(number: int, message: dict[str, object]) -> Pair:
        asked = Request(f"r{number}", f"s{number}", LENGTH, prompt="x", fields=tools)
        return pair(number, request=asked, answered={"message": message}, valid=True, finish="tool_calls")

    call = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    assert "invalid_forms" not in verdict([one(n, call) for n in range(100)])[1]
    assert "invalid_forms" in verdict([one(n, {"content": "text"}) for n in range(100)])[1]


def test_one_sampled_request_decides_nothing_and_says_so() -> None:
    pairs = [pair(n) for n in range(64)]
    pairs[0] = replace(
        pairs[0], reference=replace(pairs[0].reference, samples=((1,) * 9,) * 4), samples=((2,) * 9,) * 4
    )
    assert "too few" in measured(pairs).conditions["left_out"]["sampled_p_value"]


def test_answers_that_lose_their_form_are_rejected() -> None:
    def one(number: int, text: str) -> Pair:
        asked = Request(f"r{number}", f"s{number}", LENGTH, prompt="x", fields=FORM)
        made = pair(number, request=asked, answered={"text": text}, valid=True)
        return replace(made, reference=replace(made.reference, text=text))

    assert verdict([one(n, '{"a": 1}') for n in range(100)])[0] is Outcome.ACCEPT
    assert verdict([one(n, '{"a": "1"}') for n in range(100)])[1] == {"invalid_forms"}
