"""OpenVINO's settings; what it answers is under tests/contracts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight import checkpoint, engines, techniques
from pennyweight.engines.openvino.settings import OpenVINO
from pennyweight.errors import EngineRefused
from pennyweight.generation import joined_score
from pennyweight.hardware import Hardware
from pennyweight.techniques.quantize import Quantize


def test_a_cache_of_16_bits_is_tried_where_the_cpu_has_such_floats() -> None:
    plain, half = (Hardware("cpu", 2, 2**34, flags, 3e10, {"f32": 1e11}) for flags in ((), ("avx512_bf16",)))
    assert "bf16" not in OpenVINO().search_settings(plain, 32, 512)["kv_cache_dtype"]
    assert "bf16" in OpenVINO().search_settings(half, 32, 512)["kv_cache_dtype"]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"max_num_batched_tokens": 1}, "16 or more"),
        ({"dynamic_quantization_group_size": -2}, "as OpenVINO likes"),
        ({"inference_precision": "f8"}, "auto, f32, bf16, f16"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(EngineRefused, match=word):
        engines.make("openvino", settings)


@pytest.mark.slow
def test_activations_are_rounded_or_left_as_they_are(tiny_checkpoint: Path) -> None:
    """Left alone, they make of 8-bit weights what the same weights make of them unpacked."""
    packed = techniques.apply(Quantize("Q8_0"), checkpoint.open_model(str(tiny_checkpoint)))

    def told(path: Path, **settings: int) -> list[float]:
        runtime = OpenVINO(inference_precision="f32", kv_cache_dtype="f32", **settings).load(path)
        return list(joined_score(runtime.score(range(3, 60), 1)).logprobs)

    rounded, whole = told(packed.path), told(packed.path, dynamic_quantization_group_size=0)
    assert whole != rounded
    assert whole == pytest.approx(rounded, abs=0.5)


@pytest.mark.parametrize(("decoder", "refused"), [("ByteFallback", True), ("ByteLevel", False)])
def test_a_tokenizer_that_its_gguf_reader_cannot_load_is_refused(decoder: str, refused: bool, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(f'{{"decoder": {{"type": "{decoder}"}}}}')
    if refused:
        with pytest.raises(EngineRefused, match="byte-level tokenizers only"):
            engines.engine_class("openvino").refuse_files(tmp_path)
    else:
        engines.engine_class("openvino").refuse_files(tmp_path)
