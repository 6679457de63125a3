"""ONNX that multiplies 8-bit by 8-bit integers: the activations' scales are fixed beforehand, on calibration text.

Activations that are rounded as they come cost a pass over each of them, and ONNX Runtime then multiplies them in blocks
of 32; with fixed scales it multiplies whole matrices of integers. One scale has to fit every token then. Channels that
are large for all tokens are made smaller, and the weights that they meet larger (SmoothQuant: Xiao et al. 2022,
arxiv.org/abs/2211.10438). Where a few enormous tokens set the scale (Sun et al. 2024, arxiv.org/abs/2402.17762) the
rest would drown in it: such a matrix keeps 8-bit weights and rounds its activations as they come, as does the head.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.techniques import progress

SMOOTHED = 0.5  # how much of a channel's size goes over to the weights
ENORMOUS = 20  # times the median token's largest value
MOST_DROWNED = 0.05  # error of the median token, of its own size
MOST_BATCHES = 4
LEVELS = 255
BLOCK = 32  # weights that share a scale where activations are rounded as they come

Array = NDArray[np.float32]
Batches = Sequence[NDArray[np.int64]]  # of tokens, [texts, tokens]


def quantize(whole: Path, target: Path, batches: Batches) -> None:
    """From the builder's float32 graph in `whole` to one of integers in `target`."""
    graph = Graph(whole)
    scales = graph.smoothing(graph.channels(batches[:MOST_BATCHES]))
    ranges = graph.ranges(batches[:MOST_BATCHES], scales)
    graph.smooth(scales)
    save(round_weights(round_both(graph.model, ranges, graph.fitting(ranges))), target)
    for file in whole.iterdir():
        if not file.name.startswith(("model.onnx", "watched")):
            (target / file.name).write_bytes(file.read_bytes())


@dataclass
class Range:
    """What an input was on the text. `power`: mean square of each token."""

    low: float = 0.0
    high: float = 0.0
    power: tuple[Array, ...] = ()

    def with_batch(self, values: Array) -> Range:
        power: Array = np.square(values).mean(axis=-1).ravel()
        return Range(min(self.low, float(values.min())), max(self.high, float(values.max())), (*self.power, power))

    @property
    def drowned(self) -> float:
        """Error of rounding to this range's levels, of the median token's own size: a step is uniform noise."""
        step = (self.high - self.low) / LEVELS
        power = float(np.median(np.concatenate(self.power)))
        return step / math.sqrt(12 * max(power, 1e-12))


class Graph:
    """The builder's graph: which matrices read which input, and who makes it."""

    def __init__(self, directory: Path) -> None:
        import onnx

        self._directory = directory
        self.model = onnx.load(str(directory / "model.onnx"), load_external_data=False)
        self._decoder = json.loads((directory / "genai_config.json").read_text())["model"]["decoder"]
        self._weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._made_by = {name: node for node in self.model.graph.node for name in node.output}

    @cached_property
    def readers(self) -> dict[str, list[Any]]:
        """The matrices that read each input, the head left out."""
        found = defaultdict(list)
        for node in self.model.graph.node:
            if node.op_type == "MatMul" and node.input[1] in self._weights and not self._is_head(node):
                found[node.input[0]].append(node)
        return dict(found)

    def _is_head(self, node: Any) -> bool:
        return str(node.name).startswith("/lm_head/")

    def channels(self, batches: Batches) -> dict[str, Array]:
        """The largest value of each channel, enormous tokens left out."""
        largest: dict[str, Array] = {}
        for name, values in self._watched(batches, "1 of 2"):
            rows = np.abs(values.reshape(-1, values.shape[-1]))
            size = rows.max(axis=1)
            seen = rows[size <= ENORMOUS * np.median(size)].max(axis=0)
            largest[name] = np.maximum(seen, largest.get(name, 0))
        return largest

    def ranges(self, batches: Batches, scales: Mapping[str, Array]) -> dict[str, Range]:
        """What the inputs will be once they are smoothed."""
        found: defaultdict[str, Range] = defaultdict(Range)
        for name, values in self._watched(batches, "2 of 2"):
            found[name] = found[name].with_batch(values / scales.get(name, np.float32(1)))
        return dict(found)

    def fitting(self, ranges: Mapping[str, Range]) -> list[str]:
        """The matrices whose inputs one scale fits."""
        return [
            node.name for name, nodes in self.readers.items() if ranges[name].drowned <= MOST_DROWNED for node in nodes
        ]

    def smoothing(self, largest: Mapping[str, Array]) -> dict[str, Array]:
        """By what to divide each channel of the inputs whose maker can take it over."""
        import onnx

        directory = str(self._directory)
        scales = {}
        for name, nodes in self.readers.items():
            if self._maker(name) is None:
                continue
            weights = [onnx.numpy_helper.to_array(self._weights[node.input[1]], directory) for node in nodes]
            meets = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
            scale = np.maximum(largest[name], 1e-5) ** SMOOTHED / np.maximum(meets, 1e-5) ** (1 - SMOOTHED)
            scales[name] = (scale / np.exp(np.mean(np.log(scale)))).clip(1e-3, 1e3).astype(np.float32)
        return scales

    def smooth(self, scales: Mapping[str, Array]) -> None:
        """Put them into the weights: the model stays what it is."""
        import onnx

        onnx.load_external_data_for_model(self.model, str(self._directory))
        for name, scale in scales.items():
            maker = self._maker(name)
            assert maker is not None
            self._multiply(maker, np.reciprocal(scale))
            for node in self.readers[name]:
                self._multiply(node.input[1], scale[:, None])

    def _maker(self, name: str) -> str | None:
        """The weight whose last axis are this input's channels, if nobody else reads them: a norm's, or that of the
        matrix whose output is gated."""
        node = self._made_by[name]
        readers = sum(name in other.input for other in self.model.graph.node)
        if readers != len(self.readers[name]):
            return None
        if node.op_type.endswith("SimplifiedLayerNormalization") and name == node.output[0]:
            return str(node.input[2 if node.op_type.startswith("Skip") else 1])
        if node.op_type == "Mul":
            gated = [self._made_by[part] for part in node.input if part in self._made_by]
            return next((str(made.input[1]) for made in gated if made.op_type == "MatMul"), None)
        return None

    def _multiply(self, weight: str, factor: Array) -> None:
        import onnx

        tensor = self._weights[weight]
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * factor, weight))

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
            for layer in range(decoder["num_hidden_layers"]) for part in ("key", "value")
        }  # fmt: skip
        return {"input_ids": tokens, "attention_mask": np.ones_like(tokens), **held}


def round_both(model: Any, ranges: Mapping[str, Range], nodes: Sequence[str]) -> Any:
    """Weights by column and activations by fixed scales, where ONNX Runtime sees that it may multiply integers."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    seen = {
        name: TensorData(lowest=np.float32(found.low), highest=np.float32(found.high))
        for name, found in ranges.items()
    }  # fmt: skip
    quantizer = QDQQuantizer(
        model, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8, activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, seen), nodes_to_quantize=list(nodes), nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )  # fmt: skip
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
