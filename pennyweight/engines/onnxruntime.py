"""ONNX Runtime: models from ONNX Runtime GenAI's builder, run through a plain session.

GenAI's own engine uses static batching (a later request waits for the whole batch: measured, see
docs/decisions/0004). The builder's graph takes each row's own length from the attention mask, so a session over one
shared key-value store per layer decodes a dense batch of unequal rows, in place.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pennyweight.engines.base import Runtime
from pennyweight.engines.batching.draft import Lengths
from pennyweight.engines.batching.grammar import Grammars
from pennyweight.engines.batching.rows import RowRuntime
from pennyweight.engines.batching.sampling import Logits
from pennyweight.engines.batching.settings import RowEngine
from pennyweight.hardware import Efficiency, Hardware, available_cores

FIRST_CAPACITY = 512  # positions a row can hold before the store grows
POSITIONS = "pennyweight_positions"
HIDDEN = "hidden_states_at_positions"  # its output, before the head
# Products of unsigned and signed bytes overflow on x86 without VNNI; there, and only there, this takes a slower kernel.
PRECISE_BYTES = "session.x64quantprecision"
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class ONNXRuntime(RowEngine):
    """`allow_spinning` keeps idle threads busy waiting: faster alone, slower when anything else needs a core."""

    allow_spinning: bool = False

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnxruntime_genai")
    model_format: ClassVar[str] = "onnx"
    efficiency: ClassVar[Mapping[str, Efficiency]] = {
        "": Efficiency(0.5, {"f32": 0.60, "int8": 0.18}, layer_seconds=0.00015),
        "INT8_STATIC": Efficiency(0.5, {"f32": 0.60, "int8": 0.40}, layer_seconds=0.00015),
    }
    colour: ClassVar[str] = "#eb6834"
    schemes: ClassVar[tuple[str, ...]] = ("FP32", "INT8", "INT8_STATIC", "INT4")
    conforms: ClassVar[bool] = True
    max_top_logprobs: ClassVar[int] = 20
    draft_file: ClassVar[str] = "genai_config.json"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "spinning threads": {"allow_spinning": True},
        **RowEngine.presets,
    }
    tested: ClassVar[tuple[str, str]] = ("1.31", "1.33")

    def search_settings(self, hardware: Hardware, streams: int, longest: int) -> Mapping[str, tuple[Any, ...]]:
        del hardware, streams, longest
        return {"allow_spinning": (False, True), "enable_prefix_caching": (False, True)}

    def load(self, directory: Path) -> Runtime:
        return ONNXRuntimeRuntime(directory, self)


class ONNXRuntimeRuntime(RowRuntime):
    """The store is one array (rows, heads, positions, width) for each layer's keys and values, bound both as the
    graph's input and as its output."""

    def __init__(self, directory: Path, settings: ONNXRuntime) -> None:
        import onnx
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        self._directory = directory
        description = json.loads((directory / "genai_config.json").read_text())["model"]
        draft, decoder = settings.draft_directory(directory), description["decoder"]
        self._width = decoder["hidden_size"]
        drafting = ONNXRuntimeRuntime(draft, settings.draft_settings()) if draft else None
        super().__init__(settings, drafting, Grammars(directory), vocabulary=description["vocab_size"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.num_threads or available_cores()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.allow_spinning)))
        model = onnx.load(str(directory / decoder["filename"]), load_external_data=False)
        self._graph = logits_at_positions(model)
        self._session = self._opened(options)
        capacity = max(FIRST_CAPACITY, sliding_window(model))
        self._shape = (settings.slots + 1, decoder["num_key_value_heads"], capacity, decoder["head_size"])
        self._names = [
            (f"past_key_values.{layer}.{part}", f"present.{layer}.{part}")
            for layer in range(decoder["num_hidden_layers"])
            for part in ("key", "value")
        ]
        self._store = [np.zeros(self._shape, np.float32) for _ in self._names]

    def _opened(self, options: Any) -> Any:
        import onnxruntime

        options.add_session_config_entry(WEIGHTS_FOLDER, str(self._directory))
        options.add_session_config_entry(PRECISE_BYTES, "1")
        return onnxruntime.InferenceSession(self._graph, options, providers=["CPUExecutionProvider"])

    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits:
        logits: Logits = self._run(row, [list(tokens)], np.ones((1, start + len(tokens)), np.int64), every=every)[0]
        return logits

    def states(self, row: int, tokens: Sequence[int], start: int) -> Logits:
        mask = np.ones((1, start + len(tokens)), np.int64)
        states: Logits = self._run(row, [list(tokens)], mask, output=HIDDEN)[0]
        return states

    def decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits:
        mask = (np.arange(lengths.max() + 1)[None] <= lengths[:, None]).astype(np.int64)
        return self._run(0, [[token] for token in tokens], mask)[:, 0]

    def kernels(self) -> list[str]:
        """From a profile of one token, run in a separate session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        with tempfile.TemporaryDirectory(prefix="pennyweight-onnx-") as directory:
            options.profile_file_prefix = str(Path(directory) / "profile")
            plain, self._session = self._session, self._opened(options)
            try:
                self.extend(self._settings.slots, [0], 0, every=False)
                profile = json.loads(Path(self._session.end_profiling()).read_text())
            finally:
                self._session = plain
        ran = {event["name"]: event["args"] for event in profile if "op_name" in event.get("args", {})}
        counted = Counter(f"{a['op_name']} ({a['provider']})" for a in ran.values() if "MatMul" in a["op_name"])
        return [f"{count} x {name}" for name, count in counted.most_common()]

    def _move(self, source: int, target: int, length: int) -> None:
        for array in self._store:
            array[target, :, :length] = array[source, :, :length]

    def _run(
        self,
        first: int,
        tokens: list[list[int]],
        mask: NDArray[np.int64],
        *,
        every: bool = True,
        output: str = "logits",
    ) -> Logits:
        """Forward for the rows from `first` on; the mask's row sums are the lengths after these tokens. Logits at every
        one of them, or only at the last; or hidden states."""
        self._grow(mask.shape[1])
        _, heads, positions, width = self._shape
        rows = len(tokens)
        binding = self._session.io_binding()
        for array, (past, present) in zip(self._store, self._names, strict=True):
            place, shape = array[first:].ctypes.data, (rows, heads, positions, width)
            binding.bind_input(past, "cpu", 0, np.float32, shape, place)
            binding.bind_output(present, "cpu", 0, np.float32, shape, place)
        binding.bind_cpu_input("input_ids", np.asarray(tokens, np.int64))
        binding.bind_cpu_input("attention_mask", mask)
        wanted = np.arange(0 if every else len(tokens[0]) - 1, len(tokens[0]))
        binding.bind_cpu_input(POSITIONS, wanted)
        last = self._vocabulary if output == "logits" else self._width
        found = np.empty((rows, len(wanted), last), np.float32)
        binding.bind_output(output, "cpu", 0, np.float32, found.shape, found.ctypes.data)
        self._session.run_with_iobinding(binding)
        return found

    def _grow(self, positions: int) -> None:
        rows, heads, capacity, width = self._shape
        if positions <= capacity:
            return
        while capacity < positions:
            capacity *= 2
        self._shape = (rows, heads, capacity, width)
        for index, old in enumerate(self._store):
            self._store[index] = np.zeros(self._shape, np.float32)
            self._store[index][:, :, : old.shape[2]] = old


def sliding_window(model: Any) -> int:
    """Positions that the graph's attention looks back at, 0 for all: its kernel refuses a store with room for fewer."""
    attributes = (a for node in model.graph.node if node.op_type == "GroupQueryAttention" for a in node.attribute)
    return max((int(a.i) for a in attributes if a.name == "local_window_size"), default=0)


def logits_at_positions(model: Any) -> bytes:
    """The builder's graph with one more input: the positions at which logits are wanted. A prompt needs
    logits only at its last position, and the head can be a fifth of all weights."""
    import onnx

    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    head = made_by["logits"]
    while not head.op_type.startswith("MatMul"):  # the nodes after it work on each position separately
        head = made_by[head.input[0]]
    chosen = onnx.helper.make_node("Gather", [head.input[0], POSITIONS], [HIDDEN], axis=1)
    graph.output.append(onnx.helper.make_tensor_value_info(HIDDEN, onnx.TensorProto.FLOAT, [None, None, None]))
    graph.node.insert(list(graph.node).index(head), chosen)
    head.input[0] = chosen.output[0]
    graph.input.append(onnx.helper.make_tensor_value_info(POSITIONS, onnx.TensorProto.INT64, ["positions"]))
    logits = next(output for output in graph.output if output.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_param = "positions"
    return bytes(model.SerializeToString())
