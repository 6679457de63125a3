"""Sampled answers: alike is accepted, a sampler that ignores what it is asked is not."""

from __future__ import annotations

import asyncio

import numpy as np

from pennyweight.measure.proof.references import samples
from pennyweight.measure.proof.sampling import SAMPLES, discrepancy
from pennyweight.workload import Request

PROMPTS = 30


def drawn(random: np.random.Generator, spread: int, count: int = 4) -> list[tuple[int, ...]]:
    return [tuple(random.integers(0, spread, 20)) for _ in range(count)]


def test_answers_of_one_distribution_are_seldom_called_different() -> None:
    random = np.random.default_rng(0)
    values = [discrepancy([(drawn(random, 5), drawn(random, 5)) for _ in range(10)], seed=n)[1] for n in range(20)]
    assert sum(value < 0.05 for value in values) <= 3


def test_a_sampler_that_is_greedy_is_seen() -> None:
    random = np.random.default_rng(0)
    _, p_value = discrepancy([(drawn(random, 5), [tuple([1] * 20)] * 4) for _ in range(PROMPTS)])
    assert p_value <= 0.01


def test_another_temperature_is_seen() -> None:
    random = np.random.default_rng(0)
    _, p_value = discrepancy([(drawn(random, 3), drawn(random, 12)) for _ in range(PROMPTS)])
    assert p_value <= 0.01


def test_samples_are_drawn_as_the_request_asks_and_each_with_its_own_seed() -> None:
    class Recorder:
        model = "m"

        def __init__(self) -> None:
            self.bodies: list[dict[str, object]] = []

        async def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
            self.bodies.append(body)
            return {"choices": [{"text": "x", "token_ids": [1], "prompt_token_ids": [1], "finish_reason": "stop"}]}

    recorder = Recorder()
    asked = Request("r", "s", 4, prompt="p", fields={"temperature": 0.7, "top_p": 0.9, "seed": 5, "n": 3})
    assert asyncio.run(samples(recorder, asked)) == ((1,),) * SAMPLES  # type: ignore[arg-type]
    assert {(body["temperature"], body["top_p"], body["n"]) for body in recorder.bodies} == {(0.7, 0.9, 1)}
    assert len({body["seed"] for body in recorder.bodies}) == SAMPLES
