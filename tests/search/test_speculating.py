"""Which loads are tried with speculation, and with which settings."""

from __future__ import annotations

import pytest

from pennyweight.deployment import Deployment
from pennyweight.search.speculating import loads, with_speculation


def test_loads_go_up_to_the_question_s() -> None:
    assert loads(1) == [1]
    assert loads(12) == [1, 2, 4, 8, 12]
    assert loads(32) == [1, 2, 4, 8, 16, 32]


def deployment(engine: str, **settings: object) -> Deployment:
    return Deployment(engine, "somewhere", "id", "Q8_0", {"max_num_seqs": 8, **settings})


@pytest.mark.parametrize("engine", ["openvino", "llamacpp", "onnxruntime"])
def test_engines_that_can_speculate_do(engine: str) -> None:
    found = with_speculation(deployment(engine))
    assert found is not None and found.settings == {"max_num_seqs": 8, "speculative_method": "ngram"}


def test_engines_that_cannot_or_do_already_are_left_alone() -> None:
    assert with_speculation(deployment("scripted")) is None
    assert with_speculation(deployment("openvino", speculative_method="ngram")) is None
