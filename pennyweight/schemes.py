"""Number formats of weights (schemes), in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ModelFormat = Literal["huggingface", "gguf", "onnx"]
NumberType = Literal["f32", "bf16", "int8"]


@dataclass(frozen=True)
class Scheme:
    """`bits` per weight of the block matrices, scales included, and the embedding or head where the scheme converts it.
    `arithmetic` is the number type in which engines multiply by it. `finer` names the schemes of its family that are
    more accurate, best first: if one fails, so does this one. `calibrated`: its scales are searched on text. `tunable`:
    its rounding can be tuned by gradient descent."""

    name: str
    format: ModelFormat
    bits: float
    arithmetic: NumberType
    finer: tuple[str, ...] = ()
    calibrated: bool = False
    tunable: bool = False
    unmodified: bool = False  # changes no weight beyond its last bits


TABLE = {
    scheme.name: scheme
    for scheme in (
        Scheme("F32", "huggingface", 32.0, "f32", unmodified=True),
        Scheme("BF16", "huggingface", 16.0, "bf16", unmodified=True),
        Scheme("F16", "gguf", 16.0, "bf16", unmodified=True),
        Scheme("Q8_0", "gguf", 8.5, "int8", ("F16",)),
        Scheme("Q4_K_M", "gguf", 5.5, "int8", ("F16", "Q8_0"), calibrated=True, tunable=True),
        Scheme("Q4_0", "gguf", 4.9, "int8", ("F16", "Q8_0", "Q4_K_M"), calibrated=True, tunable=True),
        Scheme("FP32", "onnx", 32.0, "f32", unmodified=True),
        Scheme("INT8", "onnx", 8.5, "int8", ("FP32",)),
        Scheme("INT8_STATIC", "onnx", 8.2, "int8", ("FP32",), calibrated=True),
        Scheme("INT4", "onnx", 4.5, "int8", ("FP32", "INT8"), calibrated=True, tunable=True),
        Scheme("W8A8", "huggingface", 8.1, "int8", calibrated=True, tunable=True),
        Scheme("W4A16", "huggingface", 4.5, "bf16", ("W8A8",), calibrated=True, tunable=True),
    )
}
FULL_PRECISION = ("F32", "BF16", "F16")  # of checkpoints, as safetensors spells them


def scheme(name: str) -> Scheme:
    """The scheme of this name. An unknown one (of a remote server) counts as 16-bit floats."""
    return TABLE.get(name) or Scheme(name, "huggingface", 16.0, "f32")
