"""The process that tries models: `python -m pennyweight.conform ENGINE CASE…` prints a line of JSON for each case.

All models of a call are tried in one process, because importing the libraries takes longer than a tiny model. One
that takes the process down is named by what is missing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pennyweight import engines
from pennyweight.checkpoint import copy_tokenizer
from pennyweight.conform.cases import CASES, CONTEXT, with_wider_heads
from pennyweight.conform.tiny import Truth, make, tokenizer
from pennyweight.conform.trial import Outcome, tried
from pennyweight.engines.base import Engine

SETTINGS = {  # the most precise that each has
    "llamacpp": {"max_model_len": CONTEXT, "kv_cache_dtype": "f32", "flash_attention": "off"},
    "openvino": {"kv_cache_dtype": "f32", "inference_precision": "f32", "dynamic_quantization_group_size": 0},
    "vllm": {"max_model_len": CONTEXT, "dtype": "float32", "enforce_eager": True, "kv_cache_gib": 1},
}
WIDER = ("vllm",)  # on a CPU it has no attention for heads of 16


FULL = {"gguf": "F16", "onnx": "FP32"}  # scheme by format: the full precision that its engines take
EIGHT_BITS = {"gguf": "Q8_0", "onnx": "INT8"}


def converted(model_format: str, source: Path, target: Path, scheme: str) -> Path:
    """The model in a format and scheme that engines take."""
    from pennyweight.techniques.quantize import CONVERSIONS, ONNX, build_onnx, convert_to_gguf

    if model_format == "huggingface":
        return source
    target.mkdir()
    if model_format == "gguf":
        convert_to_gguf(source, target / "model.gguf", CONVERSIONS[scheme])
    else:
        build_onnx(source, target, ONNX[scheme])
    copy_tokenizer(source, target)
    return target


def outcome(engine: Engine, source: Path, place: Path, truths: Sequence[Truth]) -> Outcome:
    """In full precision, and where that is right, in 8 bits, too."""
    found = one(engine, source, place / "full", truths, FULL.get(engine.model_format, ""))
    scheme = EIGHT_BITS.get(engine.model_format)
    if found.result != "right" or scheme is None:
        return found
    quantized = one(engine, source, place / "quantized", truths, scheme)
    if quantized.result in ("wrong", "failed"):
        return Outcome(quantized.result, f"in {scheme}: {quantized.evidence}")
    return Outcome("right", f"{found.evidence}; in {scheme}: {quantized.evidence}")


def one(engine: Engine, source: Path, target: Path, truths: Sequence[Truth], scheme: str) -> Outcome:
    try:
        directory = converted(engine.model_format, source, target, scheme)
    except Exception as error:  # a converter knows a model or does not
        lines = str(error).splitlines() or ["no reason given"]
        return Outcome("refused", f"{type(error).__name__}: {lines[0]}"[:300])
    return tried(engine, directory, truths, quantized=scheme in EIGHT_BITS.values())


def main(engine_name: str, names: list[str]) -> None:
    engine = engines.make(engine_name, {"max_num_seqs": 4, "num_threads": 1, **SETTINGS.get(engine_name, {})})
    with tempfile.TemporaryDirectory(prefix="pennyweight-conform-") as folder:
        words = tokenizer(Path(folder) / "tokenizer")
        for case in (case for case in CASES if case.name in names):
            place = Path(folder) / case.model_type / str(CASES.index(case))
            truths = make(with_wider_heads(case) if engine_name in WIDER else case, place / "model", words)
            found = outcome(engine, place / "model", place, truths)
            evidence = found.evidence.replace(str(place), "…")
            row = {"case": case.name, "result": found.result, "evidence": evidence}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
