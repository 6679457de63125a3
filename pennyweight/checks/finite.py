"""Numbers that are none: one NaN in a weight makes every answer the same token, and a score that is no JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pennyweight.checks.remembered import remembered
from pennyweight.checks.safetensors_files import read_places
from pennyweight.errors import ModelError

# An exponent of ones means infinite or not a number: type -> (unsigned integer of its width, mask of its exponent).
EXPONENTS = {"F32": ("<u4", 0x7F800000), "BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00)}
CHUNK = 1 << 22  # numbers looked at together


def check_finite(file: Path) -> None:
    """Raise `ModelError` for a safetensors file with a NaN or an infinity, naming the tensor."""
    remembered(file, "finite", lambda: _look(file))


def _look(file: Path) -> str:
    for name, place in read_places(file).items():
        if place.dtype in EXPONENTS and place.end > place.begin:
            kind, mask = EXPONENTS[place.dtype]
            values = np.memmap(file, kind, "r", place.begin, ((place.end - place.begin) // np.dtype(kind).itemsize,))
            exponent = np.dtype(kind).type(mask)
            if any(
                ((values[start : start + CHUNK] & exponent) == exponent).any() for start in range(0, len(values), CHUNK)
            ):
                raise ModelError(
                    f"{file}: the tensor {name} holds a number that is none (NaN or infinite), so that no answer can "
                    "come of it: take the checkpoint from before the training went wrong."
                )
    return "yes"
