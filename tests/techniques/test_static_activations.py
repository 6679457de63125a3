"""Fixed scales: smoothing changes no answer, what drowns is left alone, and the rest multiplies integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pennyweight import checkpoint, engines, techniques, traces
from pennyweight.errors import ModelError, UsageError
from pennyweight.generation import joined_score
from pennyweight.techniques import static_activations
from pennyweight.techniques.quantize import Quantize
from pennyweight.techniques.static_activations import Graph, Range, largest_values
from pennyweight.workload import texts

TOKENS = np.random.default_rng(0).integers(0, 250, (2, 4, 64))


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path) -> Path:
    """The builder's float32 graph, which lives in the cache: looked at, never written."""
    return techniques.apply(Quantize("FP32"), checkpoint.open_model(str(tiny_checkpoint))).path


@pytest.fixture
def graph(whole: Path, tmp_path: Path) -> Graph:
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return Graph(tmp_path)


def logits(directory: Path) -> np.ndarray:
    runtime = engines.make("onnxruntime", {}).load(directory)
    return np.asarray(joined_score(runtime.score(TOKENS[0, 0].tolist(), 1)).logprobs)


def values(enormous: float = 0.0) -> np.ndarray:
    """A hundred tokens of 64 channels that are alike, or all but one."""
    alike = np.random.default_rng(1).normal(size=(1, 100, 64)).astype(np.float32)
    alike[0, 0, 3] = enormous
    return alike


def test_a_scale_fits_tokens_that_are_alike_and_drowns_them_beside_an_enormous_one() -> None:
    fits, drowns = Range().with_batch(values()), Range().with_batch(values(enormous=3000))
    assert fits.error < 0.02 and drowns.error > 1
    assert (drowns.high, len(np.concatenate(drowns.power))) == (3000, 100)


def test_an_enormous_token_does_not_say_what_a_channel_is_like() -> None:
    assert largest_values(values(enormous=3000))[3] < 5
    assert largest_values(values(enormous=20))[3] == 20


def test_a_range_goes_over_all_batches_and_holds_zero() -> None:
    both = Range().with_batch(np.full((1, 2, 4), 2, np.float32)).with_batch(np.full((1, 2, 4), 5, np.float32))
    assert (both.low, both.high) == (0, 5)


@pytest.mark.slow
def test_the_head_is_no_matrix_to_be_fitted(graph: Graph) -> None:
    names = [node.name for nodes in graph.readers.values() for node in nodes]
    assert names and not any("lm_head" in name for name in names)
    assert any("down_proj" in name for name in names) and any("qkv" in name or "q_proj" in name for name in names)


@pytest.mark.slow
def test_a_matrix_whose_input_would_drown_is_left_alone(graph: Graph) -> None:
    ranges = {name: Range().with_batch(values()) for name in graph.readers}
    left = next(name for name in ranges if "/mlp/Mul" in name)
    ranges[left] = Range().with_batch(values(enormous=3000))
    fitting = graph.fitting(ranges)
    made = static_activations.quantize_weights_and_activations(graph.with_weights(), ranges, fitting)
    untouched = {node.input[0] for node in made.graph.node if node.op_type == "MatMul"} & set(ranges)
    assert untouched == {left} and len(fitting) == sum(len(nodes) for nodes in graph.readers.values()) - 1


@pytest.mark.slow
def test_a_model_of_which_nothing_fits_is_refused(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_activations, "MAX_ERROR", 0.0)
    with pytest.raises(ModelError, match="INT8_STATIC"):
        static_activations.quantize(tmp_path, tmp_path / "target", TOKENS)


@pytest.mark.slow
def test_smoothing_evens_the_channels_and_changes_no_answer(graph: Graph, whole: Path, tmp_path: Path) -> None:
    largest = graph.channels(TOKENS)
    scales = graph.smoothing(largest)
    smoothed = " ".join(scales)
    assert all(part in smoothed for part in ("/mlp/Mul", "/input_layernorm", "/post_attention_layernorm"))
    assert all(np.std(scale) > 0 for scale in scales.values())
    graph.smooth(scales)
    smooth = tmp_path / "smooth"
    smooth.mkdir()
    static_activations.save(graph.with_weights(), smooth)
    for file in ("config.json", "genai_config.json"):
        (smooth / file).write_bytes((whole / file).read_bytes())
    np.testing.assert_allclose(logits(smooth), logits(whole), atol=1e-3)
    after = Graph(smooth).channels(TOKENS)
    for name in scales:
        np.testing.assert_allclose(after[name], largest[name] / scales[name], rtol=0.02, atol=1e-4)


@pytest.mark.slow
def test_what_fits_multiplies_integers_and_the_head_keeps_eight_bit_weights(tiny_checkpoint: Path) -> None:
    model = checkpoint.open_model(str(tiny_checkpoint))
    calibration = tuple(texts(traces.load("chat").requests))
    made = techniques.apply(Quantize("INT8_STATIC", calibration=calibration), model)
    assert (made.format, made.scheme) == ("onnx", "INT8_STATIC")
    kernels = " ".join(engines.make("onnxruntime", {}).load(made.path).kernels())
    assert "MatMulIntegerToFloat" in kernels and "MatMulNBits" in kernels
    assert not (made.path / "watched.onnx").exists()


def test_there_is_no_rounding_to_tune() -> None:
    with pytest.raises(UsageError, match="nothing to tune"):
        Quantize("INT8_STATIC", iterations=10, calibration=("text",))
