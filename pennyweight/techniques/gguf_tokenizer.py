"""The tokenizer inside a GGUF file of the SentencePiece family, as `tokenizers` has it.

transformers' own conversion drops leading blanks and merges double ones otherwise. SentencePiece merges the pair whose
result has the best score (Kudo & Richardson 2018, arxiv.org/abs/1808.06226); in the file are the pieces and their
scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from pennyweight.errors import ModelError

BLANK = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # `tokenizer.ggml.token_type`
NAMED = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id"}
Merge = tuple[str, str]


def is_sentencepiece(reader: Any) -> bool:
    return bool(_value(reader, "model") == "llama")


def sentencepiece(reader: Any) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of an opened GGUF file, and the names of its special tokens."""
    pieces = [str(piece) for piece in _value(reader, "tokens")]
    kinds = list(_value(reader, "token_type") or [NORMAL] * len(pieces))
    scores = list(_value(reader, "scores") or [0.0] * len(pieces))
    unknown = next((piece for piece, kind in zip(pieces, kinds, strict=True) if kind == UNKNOWN), None)
    made = tokenizers.Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=merges_of(pieces, kinds, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = _value(reader, "add_space_prefix") is not False
    steps: list[Any] = [normalizers.Prepend(BLANK)] if prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", BLANK)])
    strip: list[Any] = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    for piece, kind in zip(pieces, kinds, strict=True):
        if kind in (CONTROL, UNKNOWN):
            made.add_special_tokens([AddedToken(piece, normalized=False, special=True)])
        elif kind == USER_DEFINED:
            made.add_tokens([AddedToken(piece, normalized=False)])
    names = {name: pieces[int(_value(reader, key))] for name, key in NAMED.items() if _value(reader, key) is not None}
    if unknown is not None:
        names["unk_token"] = unknown
    if _value(reader, "add_bos_token") is not False and "bos_token" in names:
        bos = names["bos_token"]
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, pieces.index(bos))]
        )
    return made, names


def merges_of(pieces: Sequence[str], kinds: Sequence[int], scores: Sequence[float]) -> list[Merge]:
    """Every way to make a piece of two others, the best score first. Raises `ModelError` where no piece is better than
    another."""
    known = {piece for piece, kind in zip(pieces, kinds, strict=True) if kind == NORMAL}
    whole = [number for number, piece in enumerate(pieces) if piece in known and len(piece) > 1]
    if len(whole) > 1 and len({scores[number] for number in whole}) == 1:
        raise ModelError(
            "The file gives every piece of its vocabulary the same score, as files made from a tokenizer.json do, so "
            "that how it cuts a text is lost: give the directory of the original checkpoint."
        )
    order = sorted(whole, key=lambda number: -scores[number])
    made: list[Merge] = []
    for number in order:
        piece = pieces[number]
        splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        made.extend(pair for pair in splits if pair[0] in known and pair[1] in known)
    return made


def _value(reader: Any, name: str) -> Any:
    field = reader.fields.get(f"tokenizer.ggml.{name}")
    return None if field is None else field.contents()
