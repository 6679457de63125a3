"""Prices and what is fitted on them."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.errors import UsageError
from pennyweight.plan.memory import memory_of
from pennyweight.plan.placement import Placement
from pennyweight.plan.prediction import Case, packed, shipped_predictor, unpacked
from pennyweight.plan.prices import PROMPT_TERMS, TOKEN_TERMS, Load, terms_of
from pennyweight.plan.steps import replica_limits, step_price
from tests.plan.planned import BIG, EXPERTS, LLAMA, SMALL, predictor, run

LOAD = Load(1024, 256, 16)


def term(name: str, placement: Placement, load: Load = LOAD, shape: object = LLAMA) -> float:
    return float(terms_of(shape, placement, load).token[TOKEN_TERMS.index(name)])


def test_each_term_has_its_name() -> None:
    terms = terms_of(LLAMA, Placement(BIG, "vllm", "bf16"), LOAD)
    assert (len(terms.token), len(terms.prompt)) == (len(TOKEN_TERMS), len(PROMPT_TERMS))
    assert np.isfinite(terms.token).all() and (terms.token >= 0).all() and (terms.prompt >= 0).all()


def test_weights_are_read_once_and_split_over_tensor_ranks() -> None:
    whole = Placement(BIG, "vllm", "bf16")
    read = (LLAMA.parameters - LLAMA.vocabulary * LLAMA.hidden_size) * 2 / 3e12
    assert term("weights", whole) == pytest.approx(read)
    assert term("weights", Placement(BIG, "vllm", "fp8", tensor=4)) == pytest.approx(read / 8)
    assert term("links", whole) == 0 < term("links", Placement(BIG, "vllm", "bf16", tensor=2))
    assert term("keys and values", whole, Load(2048, 512, 16)) == pytest.approx(2 * term("keys and values", whole))


def test_more_sequences_touch_more_experts_until_all_are_read() -> None:
    place = Placement(BIG, "vllm", "bf16", tensor=8)
    sizes = [term("weights", place, Load(1024, 256, count), EXPERTS) for count in (1, 8, 64, 4096)]
    assert sizes == sorted(sizes) and sizes[-1] == pytest.approx(
        (EXPERTS.parameters - EXPERTS.vocabulary * EXPERTS.hidden_size) * 2 / 8 / 3e12, rel=0.01
    )


def test_memory_says_what_fits() -> None:
    held = memory_of(LLAMA, Placement(BIG, "vllm", "bf16"))
    assert held.weights == pytest.approx(LLAMA.parameters * 2) and 300_000 < held.cached_tokens < 450_000
    assert memory_of(LLAMA, Placement(SMALL, "vllm", "bf16")).cached_tokens < 40_000
    assert memory_of(EXPERTS, Placement(SMALL, "vllm", "bf16")).cached_tokens == 0


def test_a_load_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        Load(0, 5, 1)


def test_known_ground_is_predicted_and_the_file_says_the_same() -> None:
    made = predictor()
    case = Case(LLAMA, Placement(BIG, "vllm", "bf16", tensor=2), Load(512, 512, 32))
    true = run(case.load, case.placement, 1.0)
    (found,) = made.predict([case])
    assert found.token.value == pytest.approx(true.token_seconds, rel=0.15)
    assert found.token.low < true.token_seconds < found.token.high
    (again,) = unpacked(packed(made)).predict([case])
    assert again.token.value == pytest.approx(found.token.value, rel=1e-3)
    assert again.first.high == pytest.approx(found.first.high, rel=1e-2)


def test_two_runs_correct_a_slow_deployment() -> None:
    made, place = predictor(), Placement(BIG, "vllm", "bf16", tensor=8, version="slow")
    case = Case(LLAMA, place, Load(1024, 1024, 32))
    true = run(case.load, place, 2.0)
    known = [run(Load(1024, 1024, size), place, 2.0) for size in (4, 64)]
    before, after = made.predict([case])[0], made.predict([case], known)[0]
    assert abs(after.token.value / true.token_seconds - 1) < 0.1 < abs(before.token.value / true.token_seconds - 1)
    assert after.token.high / after.token.low < before.token.high / before.token.low


def test_a_step_price_gives_back_the_steady_time_of_a_token() -> None:
    case = Case(LLAMA, Placement(BIG, "vllm", "bf16"), LOAD)
    price = step_price(case, predictor(), token_seconds=0.02)
    prompts = 16 * 1024 / 256
    steady = price.seconds(
        sequences=16, context_tokens=16 * (1024 + 128), prompt_tokens=int(prompts), prompt_pairs=prompts * 512
    )
    assert steady == pytest.approx(0.02, rel=0.01)
    assert min(vars(price).values()) >= 0
    limits = replica_limits(case)
    assert limits.max_num_seqs == 16 and limits.num_kv_blocks > 10_000 and limits.start_seconds > 20


def test_what_is_shipped_predicts_a_known_card() -> None:
    from pennyweight.plan.catalogue import catalogue, find

    card = find("h100_sxm", catalogue().values())
    (found,) = shipped_predictor().predict([Case(LLAMA, Placement(card, "vllm", "bf16"), Load(1024, 512, 16))])
    assert 0.005 < found.token.value < 0.03 and found.token.low < found.token.value < found.token.high
