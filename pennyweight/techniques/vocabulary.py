"""Vocabulary trimming: the tokens that the user's texts use stay, and so does the fallback to bytes for any other
text. Rows of the embedding and the head go; every kept row is unchanged, so inside the kept vocabulary the
greedy answers are the same as before. (The idea: Abdaoui et al. 2020, arxiv.org/abs/2010.05609.)"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pennyweight.checks.architecture import check_made
from pennyweight.errors import ModelError, UsageError
from pennyweight.model import Model
from pennyweight.shape import ModelShape
from pennyweight.techniques.base import Material, Technique, digest, whole_number
from pennyweight.techniques.layout import TABLES, Layout, changeable
from pennyweight.techniques.pieces import Pieces
from pennyweight.techniques.token_ids import needed as needed_ids
from pennyweight.techniques.token_ids import renumbered
from pennyweight.weights import Weights, rewrite

if TYPE_CHECKING:
    import torch

SNAP = 64  # rows of the head are a multiple of this, for kernels and GGUF's blocks
MIN_TOKENS = 2048  # of corpus: below this it says little about what will be needed
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")
SAMPLE = (
    {"role": "system", "content": "a"},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "d"},
)


@dataclass(frozen=True)
class Vocabulary(Technique):
    """Keep `tokens` tokens (0: half), those of `corpus` first."""

    tokens: int = 0
    corpus: tuple[str, ...] = ()

    name: ClassVar[str] = "vocabulary"
    search_name: ClassVar[str] = "vocabulary"
    default_amount: ClassVar[str] = "0"
    lossless: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("tokenizers",)

    @classmethod
    def check_amount(cls, amount: str) -> None:
        whole_number(amount, cls.search_name, least=0)

    @classmethod
    def from_amount(cls, amount: str, material: Material) -> Technique:
        return Vocabulary(int(amount), material.calibration)

    @classmethod
    def predict_config(cls, config: dict[str, Any], amount: str) -> dict[str, Any]:
        return {**config, "vocab_size": size_kept(int(amount), changeable(config))}

    def settings(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "corpus": digest(self.corpus)}

    def result_kind(self, model: Model) -> tuple[str, str]:
        shape = changeable(model.config)
        if not 0 <= self.tokens < shape.vocabulary:
            raise UsageError(f"--tokens {self.tokens} is not possible: {model.name} has {shape.vocabulary}.")
        if self.tokens % SNAP:
            near = max(SNAP, self.tokens // SNAP * SNAP)
            raise UsageError(f"--tokens {self.tokens} is not a multiple of {SNAP}: use {near}.")
        if not self.corpus:
            raise UsageError("Trimming needs text that shows which tokens are used: name a workload or --corpus.")
        Layout.of_model(model).tables()
        check_other_tables(Weights(model.path).shapes, shape.vocabulary)
        read_pieces(model.path, shape)
        for name in CONFIGS:
            if (model.path / name).exists():
                list(needed_ids(json.loads((model.path / name).read_text(encoding="utf-8"))))
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        import torch

        config = Model.config_of(source)
        shape = changeable(config)
        tables = Layout.of(shape, Weights(source).shapes).tables()
        pieces = read_pieces(source, shape)
        used = needed(source, self.corpus)
        kept, merges = pieces.filled(used, size_kept(self.tokens, shape))
        tokenizer, old = pieces.trimmed(kept, merges)
        new = {before: after for after, before in enumerate(old)}
        rows = torch.tensor(old)

        def shorten(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
            return [(name, tensor[rows] if name in tables else tensor)]

        write_json(target / "tokenizer.json", tokenizer)
        for name in CONFIGS[1:]:
            if (source / name).exists():
                write_json(target / name, renumbered(json.loads((source / name).read_text()), new))
        rewrite(source, target, {**renumbered(config, new), "vocab_size": len(old)}, shorten)
        check_made(target)


def size_kept(tokens: int, shape: ModelShape) -> int:
    """The requested number of tokens, or half."""
    return tokens or shape.vocabulary // 2 // SNAP * SNAP


def read_pieces(source: Path, shape: ModelShape) -> Pieces:
    return Pieces(json.loads((source / "tokenizer.json").read_text(encoding="utf-8")), shape.vocabulary)


def needed(source: Path, corpus: Sequence[str]) -> set[str]:
    """The pieces that the corpus is made of, those of the chat template, and those that configs name."""
    from pennyweight.tokenizer import Tokenizer

    tokenizer = Tokenizer(source)
    count, found = 0, set[int]()
    for text in corpus:
        ids = tokenizer.encode(text)
        found.update(ids)
        count += len(ids)
    if count < MIN_TOKENS:
        raise ModelError(
            f"The corpus has {count} tokens and {MIN_TOKENS} are needed to trust it: give more text (--corpus)."
        )
    for start in range(len(SAMPLE)):  # some templates refuse a system message, or an assistant's first
        try:
            found.update(tokenizer.chat(SAMPLE[start:]))
        except ModelError:
            continue
    for name in CONFIGS:
        if (source / name).exists():
            found.update(needed_ids(json.loads((source / name).read_text(encoding="utf-8"))))
    pieces = map(tokenizer.backend.id_to_token, sorted(found))
    return {piece for piece in pieces if piece is not None}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def check_other_tables(shapes: Mapping[str, tuple[int, ...]], vocabulary: int) -> None:
    """Raise `ModelError` for a tensor with a row for each token that would not follow."""
    for name, size in shapes.items():
        table = (size[:1] == (vocabulary,) and len(size) > 1) or "embed_tokens_per_layer" in name
        if table and name.rpartition(".")[0].rpartition(".")[2] not in TABLES:
            raise ModelError(f"This model has a second table of tokens, {name}, which cannot follow a trimming.")
