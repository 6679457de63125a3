"""The process that tries models: `python -m pennyweight.conform ENGINE CASE…` prints a line of JSON for each case.

All models of a call are tried in one process, because importing the libraries takes longer than a tiny model. One
that takes the process down is named by what is missing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from pennyweight import engines
from pennyweight.checkpoint import copy_tokenizer
from pennyweight.conform.cases import CASES, CONTEXT
from pennyweight.conform.tiny import make, tokenizer
from pennyweight.conform.trial import Outcome, tried

SETTINGS = {  # the most precise that each has
    "llamacpp": {"max_model_len": CONTEXT, "kv_cache_dtype": "f32", "flash_attention": "off"},
    "openvino": {"kv_cache_dtype": "f32", "inference_precision": "f32", "dynamic_quantization_group_size": 0},
}


def converted(model_format: str, source: Path, target: Path) -> Path:
    """The model in the full precision that engines of this format take."""
    from pennyweight.techniques.quantize import CONVERSIONS, build_onnx, convert_to_gguf

    if model_format == "huggingface":
        return source
    target.mkdir()
    if model_format == "gguf":
        convert_to_gguf(source, target / "model.gguf", CONVERSIONS["F16"])
    else:
        build_onnx(source, target, "fp32")
    copy_tokenizer(source, target)
    return target


def main(engine_name: str, names: list[str]) -> None:
    engine = engines.make(engine_name, {"max_num_seqs": 4, "num_threads": 1, **SETTINGS.get(engine_name, {})})
    with tempfile.TemporaryDirectory(prefix="pennyweight-conform-") as folder:
        words = tokenizer(Path(folder) / "tokenizer")
        for case in (case for case in CASES if case.name in names):
            place = Path(folder) / case.model_type / str(CASES.index(case))
            truths = make(case, place / "model", words)
            try:
                directory = converted(engine.model_format, place / "model", place / "converted")
            except Exception as error:  # a converter knows a model or does not
                lines = str(error).splitlines() or ["no reason given"]
                outcome = Outcome("refused", f"{type(error).__name__}: {lines[0]}"[:300])
            else:
                outcome = tried(engine, directory, truths)
            evidence = outcome.evidence.replace(str(place), "…")
            row = {"case": case.name, "result": outcome.result, "evidence": evidence}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
