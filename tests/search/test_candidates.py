"""Candidates: all that is legal, nothing that is not, and every refusal with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pennyweight import engines
from pennyweight.errors import UsageError
from pennyweight.hardware import Hardware
from pennyweight.model import Lineage, Model
from pennyweight.plan.cost import Load
from pennyweight.schemes import TABLE
from pennyweight.search.candidates import Candidate, Space, finer_than, is_unmodified, neighbours, predicted, propose
from pennyweight.search.recipes import Recipe
from pennyweight.serve import catalogue

SMALL = Hardware("cpu", 2, 1 << 34, memory_bandwidth=3e10, arithmetic_rate={"f32": 3e11, "bf16": 1e12, "int8": 2e12})
LARGE = Hardware("cpu", 16, 1 << 36, ("avx512_bf16", "amx_bf16"), 3e11, {"f32": 3e12, "bf16": 1e13, "int8": 2e13})
CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 512,
}


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return model_of(tmp_path, "llama")


def model_of(path: Path, model_type: str) -> Model:
    (path / "config.json").write_text(json.dumps({**CONFIG, "model_type": model_type}))
    return Model(path, "huggingface", "F32", Lineage("tiny", {"a": "1"}))


def space(model: Model, hardware: Hardware = LARGE, streams: int = 16, **only: list[str]) -> Space:
    return propose(model, hardware, streams, only.get("engines"), only.get("schemes"))


@pytest.mark.parametrize("hardware", [SMALL, LARGE], ids=["two cores", "sixteen cores"])
@pytest.mark.parametrize("streams", [1, 16, 64])
def test_every_candidate_can_be_made(model: Model, hardware: Hardware, streams: int) -> None:
    found = space(model, hardware, streams)
    assert found.candidates
    for candidate in found.candidates:
        assert catalogue.refusal(candidate.engine, candidate.scheme, model.config) is None
        catalogue.check(candidate.engine, candidate.settings)
        assert candidate.group in found.groups


def test_no_candidate_is_there_twice(model: Model) -> None:
    found = space(model).candidates
    assert len({candidate.label for candidate in found}) == len(found)


def test_every_engine_with_every_scheme_is_either_proposed_or_refused(model: Model) -> None:
    found = space(model)
    refused = {name for name, _ in found.refused}
    for engine in catalogue.names():
        offer = catalogue.offer(engine)
        for scheme in offer.schemes if offer.model_format != "huggingface" else [model.scheme]:
            assert ((engine, scheme, "") in found.groups) != (f"{engine} {scheme}" in refused)


def test_each_group_begins_with_the_defaults(model: Model) -> None:
    for (engine, *_), group in space(model).groups.items():
        choices = catalogue.settings_to_search(engine, LARGE, 16, 2048)
        assert group[0].settings == {name: values[0] for name, values in choices.items()}


def test_an_engine_that_cannot_serve_the_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    found = space(model_of(tmp_path, "mamba"))
    assert {candidate.engine for candidate in found.candidates} == {"transformers"}  # which takes every decoder
    assert {name.split()[0] for name, _ in found.refused} == set(catalogue.names()) - {"transformers"}
    assert all("mamba" in reason for _, reason in found.refused)


def test_an_engine_that_is_not_installed_is_refused_with_a_mend(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.engine_class("onnxruntime"), "packages", ("no_such_package_for_a_test",))
    found = space(model)
    assert "onnxruntime" not in {engine for engine, *_ in found.groups}
    reasons = [reason for name, reason in found.refused if name.startswith("onnxruntime ")]
    assert len(reasons) == len(catalogue.offer("onnxruntime").schemes)
    assert all("pip install" in reason for reason in reasons)


def test_only_the_engines_that_were_asked_for_are_proposed(model: Model) -> None:
    assert {engine for engine, *_ in space(model, engines=["openvino"]).groups} == {"openvino"}
    with pytest.raises(UsageError, match="'tpu'"):
        space(model, engines=["tpu"])


def test_only_the_schemes_that_were_asked_for_come_beside_the_unmodified_model(model: Model) -> None:
    schemes = {scheme for _, scheme, _ in space(model, schemes=["Q4_0"]).groups}
    assert "Q4_0" in schemes
    assert schemes - {"Q4_0"} <= {name for name, scheme in TABLE.items() if scheme.unmodified}
    assert schemes & {name for name, scheme in TABLE.items() if scheme.unmodified}
    with pytest.raises(UsageError, match=r"'Q9_9'.*Q4_0"):
        space(model, schemes=["Q9_9"])


def test_neighbours_differ_in_one_setting_and_know_each_other(model: Model) -> None:
    for group in space(model).groups.values():
        for candidate in group:
            near = neighbours(candidate, group)
            assert candidate not in near
            for other in near:
                assert sum(candidate.settings[name] != other.settings[name] for name in other.settings) == 1
                assert candidate in neighbours(other, group)
        assert len(group) == 1 or neighbours(group[0], group)


def test_a_finer_scheme_of_the_family_has_more_bits() -> None:
    assert finer_than("Q4_0") == ("F16", "Q8_0", "Q4_K_M")
    assert finer_than("INT8") == ("FP32",)
    assert finer_than("F16") == finer_than("BF16") == finer_than("unknown") == ()


def test_every_quantized_scheme_that_is_served_stands_on_a_ladder() -> None:
    served = {scheme for engine in catalogue.names() for scheme in catalogue.offer(engine).schemes}
    assert served - {name for name, scheme in TABLE.items() if scheme.unmodified} <= set(TABLE)


def test_the_unmodified_model_is_known_as_such() -> None:
    assert is_unmodified(Candidate("openvino", "F16").group)
    assert not is_unmodified(Candidate("openvino", "Q8_0").group)
    assert not is_unmodified(Candidate("openvino", "F16", recipe=Recipe((("vocabulary", "0"),))).group)
    assert Candidate("openvino", "F16", {"b": 1, "a": 2}).label == "openvino F16 a=2 b=1"


def test_every_candidate_can_be_predicted_and_is_corrected_by_trials_of_its_kernels(model: Model) -> None:
    load = Load(100, 50, 16)
    for candidate in space(model).candidates:
        plain = predicted(candidate, model, LARGE, load, {})
        slower = predicted(candidate, model, LARGE, load, {candidate.kernels: 2.0, "another": 9.0})
        assert slower["output_throughput"] == pytest.approx(plain["output_throughput"] / 2)
