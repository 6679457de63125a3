"""Scores and hidden states from OpenVINO: the weights of the pipeline once more, as a plain model."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.engines.openvino.saving import saved_graph
from pennyweight.generation import SCORED_TOPS, Score, States, pieces_of


class Scorer:
    """The same weights and kernels as a plain stateful model, which gives the most likely token at every position; the
    pipeline's `echo` gives only the log-probability of the prompt's own token.

    The graph is extended to return these few numbers per position instead of logits for the whole vocabulary.
    """

    def __init__(self, file: Path, properties: Mapping[str, Any]) -> None:
        import openvino

        core = openvino.Core()
        with tempfile.TemporaryDirectory(prefix="pennyweight-ov-") as directory:
            model = core.read_model(saved_graph(file, Path(directory), properties))
            self._vocabulary = model.output("logits").get_partial_shape()[2].get_length()
            _return_scores(model)
            self._request = core.compile_model(model, "CPU", dict(properties)).create_infer_request()

    def score(self, tokens: Sequence[int], start: int) -> Iterator[Score]:
        ids = np.asarray([tokens], dtype=np.int64)
        for begin, _ in self._run(ids, len(tokens) - 1):
            first = max(0, start - 1 - begin)
            names = ("own", "top", "top_logprob")
            own, tops, logprobs = (self._request.get_tensor(name).data[0, first:].tolist() for name in names)
            yield Score(own, [list(zip(*pair, strict=True)) for pair in zip(tops, logprobs, strict=True)])

    def embed(self, tokens: Sequence[int]) -> Iterator[States]:
        ids = np.asarray([tokens], dtype=np.int64)
        for begin, end in self._run(ids, len(tokens)):
            states = self._request.get_tensor("hidden").data[0]
            yield States(end - begin, states.sum(axis=0, dtype=np.float64).tolist(), states[-1].tolist())

    def _run(self, ids: NDArray[np.int64], count: int) -> Iterator[tuple[int, int]]:
        """Forward over the first `count` ids, piece by piece; the last one needs no token that follows."""
        self._request.reset_state()
        targets = np.append(ids[:, 1:], ids[:, :1], axis=1)
        for begin, end in pieces_of(count, self._vocabulary):
            self._request.infer(
                {
                    "input_ids": ids[:, begin:end],
                    "attention_mask": np.ones((1, end), np.int64),
                    "position_ids": np.arange(begin, end)[None],
                    "beam_idx": np.zeros(1, dtype=np.int32),
                    "targets": targets[:, begin:end],
                }
            )
            yield begin, end

    def kernels(self) -> list[str]:
        """As the execution graph names them; available only after a prompt was processed."""
        counted: Counter[str] = Counter()
        for node in self._request.get_compiled_model().get_runtime_model().get_ordered_ops():
            info = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
            if info.get("layerType") in ("FullyConnected", "MatMul"):
                counted[f"{info['primitiveType']} on {info['runtimePrecision']} weights"] += 1
        return [f"{count} x {name}" for name, count in counted.most_common()]


def _return_scores(model: Any) -> None:
    """Replace the logits by: log-probability of `targets` (1, n), the likeliest tokens and their log-probabilities
    (1, n, SCORED_TOPS)."""
    import openvino.opset13 as op

    result = model.output("logits").get_node()
    logits = result.input_value(0)
    targets = op.parameter([-1, -1], np.int64, name="targets")
    targets.output(0).set_names({"targets"})
    last = op.constant(np.array([-1], np.int64))
    best = op.topk(logits, op.constant(np.int64(SCORED_TOPS)), -1, "max", "value", index_element_type="i64")
    peak = op.reduce_max(best.output(0), last, True)
    spread = op.log(op.reduce_sum(op.exp(op.subtract(logits, peak)), last, True))  # log-sum-exp above the peak
    chosen = op.gather_elements(logits, op.unsqueeze(targets, last), 2)
    own = op.squeeze(op.subtract(op.subtract(chosen, peak), spread), last)
    top_logprob = op.subtract(op.subtract(best.output(0), peak), spread)
    head = logits.get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    hidden = op.convert(head.input_value(0), "f32")
    outputs = {"own": own.output(0), "top": best.output(1), "top_logprob": top_logprob.output(0)}
    outputs["hidden"] = hidden.output(0)
    for name, output in outputs.items():
        output.set_names({name})
    model.remove_result(result)
    model.add_parameters([targets])
    model.add_outputs(list(outputs.values()))
    model.validate_nodes_and_infer_types()
