"""The session: logits where they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pennyweight import checkpoint, techniques
from pennyweight.engines.onnxruntime import ONNXRuntime
from pennyweight.techniques.quantize import Quantize

TOKENS = list(range(5, 45))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["FP32", "INT8"])
def test_the_last_logits_of_a_prompt_are_those_of_all_its_positions(scheme: str, tiny_checkpoint: Path) -> None:
    model = techniques.apply(Quantize(scheme), checkpoint.open_model(str(tiny_checkpoint)))
    runtime = ONNXRuntime(max_num_seqs=2).load(model.path)
    every = runtime.extend(0, TOKENS, 0, every=True)
    last = runtime.extend(0, TOKENS, 0, every=False)
    assert (len(every), len(last)) == (len(TOKENS), 1)
    np.testing.assert_allclose(last[0], every[-1], atol=1e-4)
