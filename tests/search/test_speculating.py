"""Up to which load guesses are kept."""

from __future__ import annotations

import pytest

from pennyweight.deployment import Deployment
from pennyweight.search.speculating import guessing, limited, loads


def test_loads_go_up_to_the_question_s() -> None:
    assert loads(1) == [1]
    assert loads(12) == [1, 2, 4, 8, 12]
    assert loads(32) == [1, 2, 4, 8, 16, 32]


def deployment(engine: str, **settings: object) -> Deployment:
    return Deployment(engine, "somewhere", "id", "Q8_0", {"max_num_seqs": 8, **settings})


@pytest.mark.parametrize("engine", ["openvino", "llamacpp"])
def test_engines_that_can_guess_do(engine: str) -> None:
    found = guessing(deployment(engine))
    assert found is not None and found.settings == {"max_num_seqs": 8, "speculative_method": "ngram"}


def test_engines_that_cannot_or_do_already_are_left_alone() -> None:
    assert guessing(deployment("onnxruntime")) is None
    assert guessing(deployment("openvino", speculative_method="ngram")) is None


def test_an_engine_that_can_but_guess_always_does_so_only_where_it_pays_at_the_load_asked_for() -> None:
    guessed = deployment("llamacpp", speculative_method="ngram")
    assert limited(guessed, [1, 2], 8) is None
    assert limited(guessed, [1, 2, 4, 8], 8) == guessed


@pytest.mark.parametrize(
    ("paid", "limit"), [([], "none at all"), ([1], 1), ([1, 2, 4], 4), ([1, 2, 4, 8], None)]
)  # fmt: skip
def test_guesses_end_where_they_stop_paying(paid: list[int], limit: object) -> None:
    guessed = deployment("openvino", speculative_method="ngram")
    found = limited(guessed, paid, 8)
    if limit == "none at all":
        assert found is None
    else:
        assert found is not None and found.settings.get("disable_by_batch_size") == limit
