"""What the libraries that convert and quantize cannot do is said in a sentence, with what else to try."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight.errors import ModelError, UsageError
from pennyweight.techniques.quantize import Quantize, faults_named
from tests.tiny_models import TEXT, made_case


def test_an_error_of_a_library_becomes_a_sentence() -> None:
    expected = r"^It cannot be made \(KeyError: 'f16'\): use another\.$"
    with pytest.raises(ModelError, match=expected), faults_named("It cannot be made", "use another"):
        raise KeyError("f16")
    with pytest.raises(UsageError, match="ours"), faults_named("It cannot be made", "use another"):
        raise UsageError("ours")


@pytest.mark.slow
def test_a_mixture_that_the_library_cannot_quantize_is_refused_by_name(tmp_path: Path) -> None:
    model = made_case("GPT-OSS", tmp_path)
    (tmp_path / "made").mkdir()
    with pytest.raises(ModelError, match="AutoRound cannot make Q4_0 of this model"):
        Quantize("Q4_0", calibration=TEXT).build(model.path, tmp_path / "made")


@pytest.mark.slow
def test_a_mixture_without_a_gguf_converter_is_packed_all_the_same(tmp_path: Path) -> None:
    model = made_case("Granite-MoE", tmp_path)
    (tmp_path / "made").mkdir()
    Quantize("W4A16", calibration=TEXT).build(model.path, tmp_path / "made")
    assert (tmp_path / "made" / "model.safetensors").exists()
