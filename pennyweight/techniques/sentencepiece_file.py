"""A tokenizer.model (SentencePiece's own file) made of a tokenizer.json, for checkpoints without one: llama.cpp's
converters read the pieces of some architectures from nothing else. Text is never cut with it, that is the worker's
part.

Layout: `ModelProto` of sentencepiece (github.com/google/sentencepiece, src/sentencepiece_model.proto).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pennyweight.techniques.pieces import BYTE_PIECE

FILE = "tokenizer.model"
WANTED_BY = ("gemma", "gemma2", "phi3", "ernie4_5")  # model types whose converter refuses to work without it
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
UNIGRAM, BPE = 1, 2


@contextmanager
def with_sentencepiece_file(source: Path) -> Iterator[Path]:
    """The checkpoint, where it needs no such file or has one; else a directory of links with the file added. A Phi with
    a byte-level tokenizer (Phi-4-mini) is converted as one, if its class has the name that the converter looks for."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") not in WANTED_BY or (source / FILE).exists():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="pennyweight-tokenizer-") as folder:
        directory = Path(folder) / source.name
        directory.mkdir()
        for file in source.iterdir():
            (directory / file.name).symlink_to(file.resolve())
        tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        if config["model_type"] == "phi3" and '"ByteLevel"' in json.dumps(tokenizer.get("decoder")):
            _name_class(source, directory)
        else:
            (directory / FILE).write_bytes(sentencepiece_file(tokenizer))
        yield directory


def sentencepiece_file(tokenizer: dict[str, Any]) -> bytes:
    """The contents for a tokenizer.json, with the same ids."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = tokenizer["model"]
    unigram = model["type"] == "Unigram"
    pieces = {n: piece for n, (piece, _) in enumerate(model["vocab"])} if unigram else _by_id(model["vocab"])
    added = {token["id"]: token for token in tokenizer.get("added_tokens", ())}
    pieces |= {number: token["content"] for number, token in added.items()}
    unknown = model.get("unk_token")
    if unigram and model.get("unk_id") is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    made = proto.ModelProto()  # type: ignore[attr-defined]
    made.trainer_spec.model_type = UNIGRAM if unigram else BPE
    made.trainer_spec.byte_fallback = any(BYTE_PIECE.fullmatch(piece) for piece in pieces.values())
    seen = set[str]()
    for number in range(max(pieces) + 1):
        piece = pieces.get(number, f"[unused {number}]")
        entry = made.pieces.add()
        entry.piece = piece if piece and piece not in seen else f"[{piece or 'empty'} {number}]"
        seen.add(entry.piece)
        entry.score = float(model["vocab"][number][1]) if unigram and number < len(model["vocab"]) else -float(number)
        entry.type = NORMAL
        if piece == unknown or (unknown is None and number == 0):
            entry.type = UNKNOWN
        elif number in added:
            entry.type = CONTROL if added[number].get("special") else USER_DEFINED
        elif BYTE_PIECE.fullmatch(piece):
            entry.type = BYTE
    contents: bytes = made.SerializeToString()
    return contents


def _by_id(vocabulary: dict[str, int]) -> dict[int, str]:
    return {number: piece for piece, number in vocabulary.items()}


def _name_class(source: Path, directory: Path) -> None:
    file = directory / "tokenizer_config.json"
    known = json.loads((source / file.name).read_text(encoding="utf-8")) if (source / file.name).exists() else {}
    file.unlink(missing_ok=True)  # a link
    file.write_text(json.dumps({**known, "tokenizer_class": "GPT2Tokenizer"}))
