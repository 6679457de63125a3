"""One contract over every technique: a whole artifact with its lineage, built once, loadable where it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pennyweight import checkpoint, engines, paths, techniques, traces
from pennyweight.errors import ModelError, StorageError, UsageError
from pennyweight.generation import joined_score
from pennyweight.model import LINEAGE_FILE, Model
from pennyweight.schemes import TABLE
from pennyweight.techniques import jobs
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.techniques.quantize import (
    CONVERSIONS,
    GPTQ_GROUP,
    ONNX,
    PACKED,
    SCHEMES,
    TUNED,
    Quantize,
    scale_search_by_rows,
)
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import texts

CALIBRATION = tuple(texts(traces.load("chat").requests))
ENGINES = {"gguf": "openvino", "onnx": "onnxruntime"}


def technique(scheme: str) -> Quantize:
    return Quantize(scheme, 0, CALIBRATION if TABLE[scheme].calibrated else ())


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Model:
    return checkpoint.open_model(str(tiny_checkpoint))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s not in ("BF16", "Q4_K_M", *PACKED)])
def test_quantized_models_load_and_score_like_their_source(scheme: str, model: Model) -> None:
    """Every scheme that an engine here reads: near the source's own log-probabilities, the nearer the finer."""
    made = techniques.apply(technique(scheme), model)
    tokens = Tokenizer(model.path).encode("Once upon a time there was a list of things to buy for the garden.")
    reference = joined_score(engines.make("transformers", {}).load(model.path).score(tokens, 1)).logprobs
    scored = joined_score(engines.make(ENGINES[made.format], {}).load(made.path).score(tokens, 1)).logprobs
    allowed = {"F16": 0.2, "FP32": 0.01, "Q8_0": 0.4, "INT8": 0.4, "INT8_STATIC": 0.4}.get(scheme, 2.5)
    assert np.mean(np.abs(np.subtract(reference, scored))) < allowed


@pytest.mark.slow
def test_packed_checkpoints_hold_the_weights_in_eight_bits(model: Model) -> None:
    """What vLLM reads: a scale for each row, and whole numbers that make the weights again."""
    made = techniques.apply(technique("W8A8"), model)
    name = "model.layers.0.mlp.up_proj.weight"
    (whole,), (packed,), (scale,) = (
        [tensor.float() for key, tensor in tensors(place).items() if key == wanted]
        for place, wanted in ((model.path, name), (made.path, name), (made.path, f"{name}_scale"))
    )
    assert packed.abs().max() <= 128 and (packed == packed.round()).all()
    assert ((packed * scale - whole).abs() <= 1.01 * scale.abs()).all()  # some scales are below zero
    told = json.loads((made.path / "config.json").read_text())["quantization_config"]
    assert told["quant_method"] == "compressed-tensors"
    assert (made.path / "tokenizer.json").exists() and made.format == "huggingface"


@pytest.mark.slow
def test_four_bit_checkpoints_say_how_they_are_packed(model: Model) -> None:
    made = techniques.apply(technique("W4A16"), model)
    told = json.loads((made.path / "config.json").read_text())["quantization_config"]
    assert (told["quant_method"], told["bits"], told["group_size"]) == ("gptq", 4, GPTQ_GROUP)
    assert any(key.endswith("up_proj.qweight") for key in tensors(made.path))


def tensors(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {key: tensor for file in directory.glob("*.safetensors") for key, tensor in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["Q8_0", "INT8"])
def test_the_same_recipe_is_built_once(scheme: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first = techniques.apply(technique(scheme), model)
    monkeypatch.setattr(jobs, "_run_job", lambda *_: pytest.fail("it was built again"))
    again = techniques.apply(technique(scheme), model)
    assert (again.id, again.path) == (first.id, first.path)
    assert json.loads((first.path / LINEAGE_FILE).read_text())["lineage"]["steps"][-1]["settings"]["scheme"] == scheme


@pytest.mark.slow
def test_a_gguf_file_comes_back_as_the_weights_it_holds(model: Model) -> None:
    """F16 and back: the de-quantised checkpoint answers as the original does."""
    gguf = techniques.apply(technique("F16"), model)
    opened = checkpoint.open_model(str(gguf.path / "model.gguf"))
    back = techniques.apply(Dequantize(), opened)
    assert back.format == "huggingface" and back.scheme == "BF16"
    assert [step.technique for step in back.lineage.steps] == ["dequantize"]
    tokens = Tokenizer(model.path).encode("The answer to this question is rather simple.")
    before = joined_score(engines.make("transformers", {}).load(model.path).score(tokens, 1)).logprobs
    after = joined_score(engines.make("transformers", {"dtype": "float32"}).load(back.path).score(tokens, 1)).logprobs
    assert np.mean(np.abs(np.subtract(before, after))) < 0.3  # bfloat16 keeps 8 bits of each weight


@pytest.mark.slow
def test_a_changed_artifact_is_refused(model: Model) -> None:
    made = techniques.apply(technique("F16"), model)
    copy = paths.cache_directory() / "damaged"
    copy.mkdir(parents=True)
    for file in made.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data = bytearray((copy / "model.gguf").read_bytes())
    data[-1] ^= 1
    (copy / "model.gguf").write_bytes(data)
    with pytest.raises(StorageError, match=r"model\.gguf"):
        checkpoint.open_model(str(copy))


@pytest.mark.slow
def test_a_failing_job_says_why_and_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["NobodyForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    odd = checkpoint.open_model(str(tmp_path))
    with pytest.raises(ModelError, match="Nobody"):
        techniques.apply(Quantize("F16"), odd)
    lineage = odd.lineage.then(Quantize("F16").step())
    assert not (paths.cache_directory() / "models" / lineage.id).exists()


@pytest.mark.slow
def test_the_scale_search_by_rows_finds_the_same_scales() -> None:
    import torch
    from auto_round.data_type import int as integers

    torch.manual_seed(0)
    weights, importance = torch.randn(20000, 32), torch.rand(20000, 32)
    whole = integers.search_scales(weights, 4, importance)
    with scale_search_by_rows():
        assert torch.equal(integers.search_scales(weights, 4, importance), whole)
    assert integers.search_scales.__name__ == "search_scales"


def test_unknown_schemes_and_pointless_tuning_are_refused() -> None:
    with pytest.raises(UsageError, match="Q3_7"):
        Quantize("Q3_7")
    with pytest.raises(UsageError, match="nothing to tune"):
        Quantize("Q8_0", iterations=40)
    with pytest.raises(UsageError, match="iterations"):
        Quantize("Q4_0", iterations=-1)


def test_a_tuned_scheme_needs_text(model: Model) -> None:
    with pytest.raises(UsageError, match="calibrate"):
        techniques.apply(Quantize("Q4_0"), model)


def test_every_scheme_is_of_one_kind() -> None:
    assert sorted(SCHEMES) == sorted({**CONVERSIONS, **TUNED, **ONNX, **PACKED})
    for scheme in SCHEMES:
        assert technique(scheme).step().settings["scheme"] == scheme


def test_other_calibration_text_is_another_recipe() -> None:
    assert Quantize("Q4_0", 0, ("a",)).step() != Quantize("Q4_0", 0, ("b",)).step()
    assert Quantize("Q8_0", 0, ("a",)).step() == Quantize("Q8_0", 0, ("b",)).step()
