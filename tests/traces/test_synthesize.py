"""Length-only traces become prompts of exactly the recorded length, shared exactly where the hashes say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pennyweight import traces
from pennyweight.errors import WorkloadError
from pennyweight.tokenizer import Tokenizer
from pennyweight.traces.synthesize import synthesize
from pennyweight.workload import PromptShape, Request, Workload

STEADY = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
BLOCK = 512


def encode(text: str) -> list[int]:
    return list(text.encode())


def trace(*shapes: PromptShape) -> Workload:
    return Workload("t", tuple(Request(f"r{i}", f"s{i}", 8, shape=shape) for i, shape in enumerate(shapes)))


def prompts(workload: Workload, seed: int = 0) -> list[tuple[int, ...]]:
    return [request.prompt_tokens for request in synthesize(workload, encode, seed).requests]


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many leading tokens are equal."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


block_hashes = st.lists(st.sampled_from("abcdef"), max_size=4).map(tuple)
shapes = st.builds(PromptShape, st.integers(1, 2500), block_hashes, st.just(BLOCK))


@STEADY
@given(st.lists(shapes, min_size=1, max_size=4), st.integers(0, 3))
def test_token_counts_are_exactly_the_recorded_ones(found: list[PromptShape], seed: int) -> None:
    made = synthesize(trace(*found), encode, seed)
    assert [len(request.prompt_tokens) for request in made.requests] == [shape.tokens for shape in found]
    assert all(request.shape is None for request in made.requests)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_requests_share_as_many_tokens_as_leading_blocks_and_then_differ(count: int, tmp_path: Path) -> None:
    lines = [
        {
            "timestamp": 0,
            "input_length": 5 * BLOCK - 40,
            "output_length": 1,
            "hash_ids": [*range(count), *range(start, start + 5 - count)],
        }
        for start in (100, 200)
    ]
    file = tmp_path / "mooncake.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    one, other = prompts(traces.load(str(file)))
    assert one[: count * BLOCK] == other[: count * BLOCK]
    assert shared(one, other) - count * BLOCK < 16  # two texts may begin alike by chance
    for start in range(count * BLOCK, 4 * BLOCK, BLOCK):
        assert one[start : start + BLOCK] != other[start : start + BLOCK]


def test_a_tail_without_a_hash_is_its_requests_own() -> None:
    one, other = prompts(trace(PromptShape(700, ("a",), BLOCK), PromptShape(700, ("a",), BLOCK)))
    assert BLOCK <= shared(one, other) < BLOCK + 16


def test_requests_without_hashes_share_nothing() -> None:
    one, other = prompts(trace(PromptShape(300), PromptShape(300)))
    assert shared(one, other) < 16


def test_agentic_hashes_are_local_to_their_session(tmp_path: Path) -> None:
    for name in ("s1", "s2"):
        entries = [{"t": t, "in": 256, "out": 5, "hash_ids": [1, 2, 3, 4]} for t in (0.0, 1.0)]
        value = {"id": name, "block_size": 64, "hash_id_scope": "local", "requests": entries}
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    made = synthesize(traces.load(str(tmp_path)), encode).requests
    by_session = {name: [r.prompt_tokens for r in made if r.session == name] for name in ("s1", "s2")}
    assert by_session["s1"][0] == by_session["s1"][1]
    assert shared(by_session["s1"][0], by_session["s2"][0]) < 16


def test_a_seed_gives_the_same_prompts_and_another_seed_others() -> None:
    workload = trace(PromptShape(600, ("a",), BLOCK), PromptShape(90))
    assert prompts(workload, 1) == prompts(workload, 1)
    assert all(one != other for one, other in zip(prompts(workload, 1), prompts(workload, 2), strict=True))


def test_a_request_gets_the_same_prompt_whoever_comes_along() -> None:
    workload = trace(PromptShape(600, ("a",), BLOCK), PromptShape(600, ("a", "b"), BLOCK), PromptShape(90))
    alone = replace(workload, requests=workload.requests[1:2])
    backwards = replace(workload, requests=workload.requests[::-1])
    assert prompts(alone) == prompts(workload)[1:2]
    assert prompts(backwards) == prompts(workload)[::-1]


def test_all_else_of_a_request_is_kept() -> None:
    request = Request("r", "s", 9, shape=PromptShape(5), arrival=2.0)
    (made,) = synthesize(Workload("t", (request,)), encode).requests
    assert replace(made, prompt_tokens=()) == replace(request, shape=None)


def test_requests_that_have_a_prompt_are_left_alone() -> None:
    text = Request("a", "a", 1, prompt="x")
    workload = Workload("w", (text,))
    assert synthesize(workload, encode) == workload
    mixed = synthesize(Workload("w", (text, *trace(PromptShape(5)).requests)), encode).requests
    assert mixed[0] == text
    assert len(mixed[1].prompt_tokens) == 5


def test_prompts_are_tokens_of_the_models_own_and_decode_to_natural_text(tokenizer_directory: Path) -> None:
    tokenizer = Tokenizer(tokenizer_directory)
    (request,) = synthesize(trace(PromptShape(400)), tokenizer.encode).requests
    assert max(request.prompt_tokens) < tokenizer.vocabulary_size
    assert len(set(tokenizer.decode(request.prompt_tokens).split())) > 50


def test_a_tokenizer_that_makes_nothing_of_text_is_refused() -> None:
    with pytest.raises(WorkloadError, match="tokenizer"):
        synthesize(trace(PromptShape(5)), lambda text: [])
