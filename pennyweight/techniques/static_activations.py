"""ONNX that multiplies 8-bit by 8-bit integers: the activations' scales are fixed beforehand, on calibration text.

Quantizing activations dynamically costs a pass over each of them, and ONNX Runtime then multiplies them in blocks
of 32; with fixed scales it multiplies whole matrices of integers. One scale has to fit every token then. Channels that
are large for all tokens are made smaller, and the weights that they meet larger (SmoothQuant: Xiao et al. 2022,
arxiv.org/abs/2211.10438). Where a few enormous tokens set the scale (Sun et al. 2024, arxiv.org/abs/2402.17762) the
rest would lose precision: such a matrix keeps 8-bit weights and dynamically quantized activations, as does the head.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import ModelError
from pennyweight.techniques.base import progress

SMOOTHING_ALPHA = 0.5  # share of a channel's size that moves to the weights (SmoothQuant's alpha)
OUTLIER_FACTOR = 20  # times the median token's largest value
MAX_ERROR = 0.05  # of the median token, of its own size
MAX_BATCHES = 4  # of the calibration text, spread over it: two passes in float32
RECIPE = {"smoothed": SMOOTHING_ALPHA, "enormous": OUTLIER_FACTOR, "most_error": MAX_ERROR, "batches": MAX_BATCHES}
LEVELS = 255
BLOCK = 32  # weights that share a scale where activations are rounded as they come

Array = NDArray[np.float32]
Batches = Sequence[NDArray[np.int64]]  # of tokens, [texts, tokens]


def quantize(whole: Path, target: Path, batches: Batches) -> None:
    """From the builder's float32 graph in `whole`, whose weights are changed, to one of integers in `target`."""
    graph = Graph(whole)
    read = batches[:: max(1, len(batches) // MAX_BATCHES)][:MAX_BATCHES]
    scales = graph.smoothing(graph.channels(read))
    ranges = graph.ranges(read, scales)
    fitting = graph.fitting(ranges)
    if not fitting:
        raise ModelError("INT8_STATIC is not possible for this model: no activations fit one scale. Use INT8.")
    graph.smooth(scales)
    save(round_weights(quantize_weights_and_activations(graph.with_weights(), ranges, fitting)), target)
    shutil.copytree(whole, target, ignore=shutil.ignore_patterns("*.onnx", "*.onnx.data"), dirs_exist_ok=True)


@dataclass(frozen=True)
class Range:
    """Statistics of one input over the calibration text. `power`: mean square of each token."""

    low: float = 0.0
    high: float = 0.0
    power: tuple[Array, ...] = ()

    def with_batch(self, values: Array) -> Range:
        power: Array = np.square(values).mean(axis=-1).ravel()
        return Range(min(self.low, float(values.min())), max(self.high, float(values.max())), (*self.power, power))

    @property
    def error(self) -> float:
        """Error of rounding to this range's levels, of the median token's own size: a step is uniform noise."""
        step = (self.high - self.low) / LEVELS
        power = float(np.median(np.concatenate(self.power)))
        return step / math.sqrt(12 * max(power, 1e-12))


def largest_values(values: Array) -> Array:
    """Of each channel; enormous tokens, which no smoothing would make fit, left out."""
    rows = np.abs(values.reshape(-1, values.shape[-1]))
    sizes = rows.max(axis=1)
    largest: Array = rows[sizes <= OUTLIER_FACTOR * np.median(sizes)].max(axis=0)
    return largest


class Graph:
    """The builder's graph: which matrices read which input, and which weight produces it."""

    def __init__(self, directory: Path) -> None:
        import onnx

        self._directory = directory
        self.model = onnx.load(str(directory / "model.onnx"), load_external_data=False)
        self._decoder = json.loads((directory / "genai_config.json").read_text())["model"]["decoder"]
        self._weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._made_by = {name: node for node in self.model.graph.node for name in node.output}
        self._times_read = Counter(name for node in self.model.graph.node for name in node.input)

    @cached_property
    def readers(self) -> dict[str, list[Any]]:
        """The matrices that read each input, where nothing else does; the head left out."""
        found = defaultdict(list)
        for node in self.model.graph.node:
            if node.op_type == "MatMul" and node.input[1] in self._weights and not self._is_head(node):
                found[node.input[0]].append(node)
        return {name: nodes for name, nodes in found.items() if len(nodes) == self._times_read[name]}

    def _is_head(self, node: Any) -> bool:
        return str(node.name).startswith("/lm_head/")

    def channels(self, batches: Batches) -> dict[str, Array]:
        """The largest value of each channel of each input."""
        largest: dict[str, Array] = {}
        for name, values in self._watched(batches, "1 of 2"):
            largest[name] = np.maximum(largest_values(values), largest.get(name, 0))
        return largest

    def ranges(self, batches: Batches, scales: Mapping[str, Array]) -> dict[str, Range]:
        """What the inputs will be once they are smoothed."""
        found: defaultdict[str, Range] = defaultdict(Range)
        for name, values in self._watched(batches, "2 of 2"):
            found[name] = found[name].with_batch(values / scales.get(name, np.float32(1)))
        return dict(found)

    def fitting(self, ranges: Mapping[str, Range]) -> list[str]:
        """The matrices whose inputs one scale fits."""
        return [node.name for name, nodes in self.readers.items() if ranges[name].error <= MAX_ERROR for node in nodes]

    def smoothing(self, largest: Mapping[str, Array]) -> dict[str, Array]:
        """The divisor of each channel, for the inputs whose producing weight can absorb it."""
        import onnx

        directory = str(self._directory)
        scales = {}
        for name, nodes in self.readers.items():
            if self._maker(name) is None:
                continue
            weights = [onnx.numpy_helper.to_array(self._weights[node.input[1]], directory) for node in nodes]
            meets = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
            scale = np.maximum(largest[name], 1e-5) ** SMOOTHING_ALPHA / np.maximum(meets, 1e-5) ** (
                1 - SMOOTHING_ALPHA
            )
            scales[name] = (scale / np.exp(np.mean(np.log(scale)))).clip(1e-3, 1e3).astype(np.float32)
        return scales

    def smooth(self, scales: Mapping[str, Array]) -> None:
        """Fold the scales into the weights on disk; the model's output does not change."""
        for name, scale in scales.items():
            maker = self._maker(name)
            assert maker is not None
            self._multiply(maker, np.reciprocal(scale))
            for node in self.readers[name]:
                self._multiply(node.input[1], scale[:, None])

    def with_weights(self) -> Any:
        """The graph with its weights in memory."""
        import onnx

        onnx.load_external_data_for_model(self.model, str(self._directory))
        return self.model

    def _maker(self, name: str) -> str | None:
        """The weight whose last axis are this input's channels: a norm's, or that of the matrix that is gated."""
        node = self._made_by.get(name)
        if node is None:
            return None
        if node.op_type.endswith("SimplifiedLayerNormalization") and name == node.output[0]:
            return str(node.input[2 if node.op_type.startswith("Skip") else 1])
        if node.op_type == "Mul":
            makers = [self._made_by.get(part) for part in node.input if self._times_read[part] == 1]
            weights = [str(maker.input[1]) for maker in makers if maker is not None and maker.op_type == "MatMul"]
            return next((weight for weight in weights if weight in self._weights), None)
        return None

    def _multiply(self, weight: str, factor: Array) -> None:
        """Changes the file, because a protobuf message keeps the memory of every value that it ever had."""
        tensor = self._weights[weight]
        place = {entry.key: entry.value for entry in tensor.external_data}
        file = self._directory / place["location"]
        values = np.memmap(file, np.float32, "r+", int(place.get("offset", 0)), tuple(tensor.dims))
        values *= factor
        values.flush()

    def _watched(self, batches: Batches, which: str) -> Iterator[tuple[str, Array]]:
        """Every input of a matrix, batch after batch. Beside the graph, because its weights must lie there."""
        import onnx
        import onnxruntime

        watched = onnx.ModelProto()
        watched.CopyFrom(self.model)
        del watched.graph.output[:]
        names = list(self.readers)
        watched.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
        )
        onnx.save(watched, self._directory / "watched.onnx")
        session = onnxruntime.InferenceSession(self._directory / "watched.onnx", providers=["CPUExecutionProvider"])
        for number, tokens in enumerate(batches):
            yield from zip(names, session.run(names, self._inputs(tokens)), strict=True)
            progress(number + 1, len(batches), f"pass {which} over the calibration text")

    def _inputs(self, tokens: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        decoder = self._decoder
        nothing = np.zeros((len(tokens), decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        held = {
            f"past_key_values.{layer}.{part}": nothing
            for layer in range(decoder["num_hidden_layers"])
            for part in ("key", "value")
        }
        return {"input_ids": tokens, "attention_mask": np.ones_like(tokens), **held}


def quantize_weights_and_activations(model: Any, ranges: Mapping[str, Range], nodes: Sequence[str]) -> Any:
    """Weights by column and activations by fixed scales, where ONNX Runtime sees that it may multiply integers."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    add_infer_metadata(model)  # the builder says every shape; otherwise the model is copied twice to find them
    seen = {
        name: TensorData(lowest=np.float32(found.low), highest=np.float32(found.high)) for name, found in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, seen),
        nodes_to_quantize=list(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def round_weights(model: Any) -> Any:
    """8-bit weights for the matrices that are left."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    return quantizer.model.model


def save(model: Any, target: Path) -> None:
    import onnx

    onnx.save(model, target / "model.onnx", save_as_external_data=True, location="model.onnx.data")
