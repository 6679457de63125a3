"""A tokenizer.json with fewer tokens, that still encodes any text.

A merge is kept if it is used to make a kept token. A text whose tokens are all kept is then encoded exactly as
before: the full tokenizer's every merge on it makes part of some kept token, so it is still there, and of those that
are left it is still the first in rank. Any other text falls apart into smaller kept tokens, down to bytes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pennyweight.errors import ModelError

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Pieces:
    """The contents of one tokenizer.json: byte-level BPE, BPE with byte fallback, or Unigram with byte fallback."""

    value: Mapping[str, Any]
    rows: int = 1 << 60  # of the embedding: tokens beyond it (Gemma's for images) have no weights and go

    def __post_init__(self) -> None:
        kind = self.model.get("type")
        if kind not in ("BPE", "Unigram"):
            raise ModelError(f"A {kind} tokenizer cannot be trimmed: only BPE and Unigram ones can.")
        if self.model.get("continuing_subword_prefix") or self.model.get("end_of_word_suffix"):
            raise ModelError("A tokenizer with word prefixes or suffixes cannot be trimmed.")
        if not (self.byte_level or self.model.get("byte_fallback")):
            raise ModelError("A tokenizer without bytes to fall back on would lose text when it is trimmed.")

    @property
    def model(self) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self.value["model"]
        return value

    @cached_property
    def ids(self) -> dict[str, int]:
        """Piece -> id, added tokens included."""
        if self.model["type"] == "Unigram":
            found = {piece: number for number, (piece, _) in enumerate(self.model["vocab"])}
        else:
            found = dict(self.model["vocab"])
        found |= {token["content"]: token["id"] for token in self.added}
        return {piece: number for piece, number in found.items() if number < self.rows}

    @property
    def added(self) -> list[Mapping[str, Any]]:
        return [token for token in self.value["added_tokens"] if token["id"] < self.rows]

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """In order of rank."""
        made = []
        for merge in self.model.get("merges", ()):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            made.append((left, right))
        return made

    @cached_property
    def rank(self) -> dict[tuple[str, str], int]:
        return {merge: number for number, merge in enumerate(self.merges)}

    @cached_property
    def byte_level(self) -> bool:
        return any(part.get("type") == "ByteLevel" for part in _parts(self.value.get("decoder")))

    @cached_property
    def safe(self) -> set[str]:
        """Tokens that always stay, whatever the corpus: special and added tokens, bytes, the piece for the unknown."""
        kept: set[str] = {token["content"] for token in self.added}
        if self.byte_level:
            kept |= {piece for piece in self.ids if len(piece) == 1}  # 256 stand-ins for bytes
        kept |= {piece for piece in self.ids if BYTE_PIECE.fullmatch(piece)}
        unknown = self.model.get("unk_token")
        if self.model["type"] == "Unigram" and self.model.get("unk_id") is not None:
            unknown = self.model["vocab"][self.model["unk_id"]][0]
        return kept | {piece for piece in self.ids if piece == unknown}

    def making(self, piece: str) -> list[tuple[str, str]]:
        """The merges that make this piece out of single characters, in order; [] if no merges make it."""
        symbols, done = list(piece), list[tuple[str, str]]()
        while len(symbols) > 1:
            pairs = itertools.pairwise(symbols)
            possible = [(self.rank[pair], place) for place, pair in enumerate(pairs) if pair in self.rank]
            if not possible:
                return []
            _, place = min(possible)
            done.append((symbols[place], symbols[place + 1]))
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        return done

    def closed(self, pieces: Iterable[str]) -> tuple[set[str], set[tuple[str, str]]]:
        """The pieces with all that they are made of, and the merges that make them."""
        kept, merges = set[str](), set[tuple[str, str]]()
        for piece in pieces:
            kept.add(piece)
            for left, right in self.making(piece) if self.merges else ():
                merges.add((left, right))
                kept |= {left, right, left + right}
        return kept, merges

    def filled(self, wanted: Iterable[str], size: int) -> tuple[set[str], set[tuple[str, str]]]:
        """What is wanted and safe, closed, then filled up to `size` with the next most common pieces whose parts are
        there (tokenizers list merges and pieces by frequency)."""
        kept, merges = self.closed({*wanted, *self.safe})
        if len(kept) > size:
            raise ModelError(
                f"The corpus and the safety set need {len(kept)} tokens, more than {size}: raise --tokens."
            )
        self._add_merged(kept, merges, size)
        single = (piece for piece in self._by_id if len(piece) == 1 or not self.merges)
        for piece in single:  # characters that the corpus lacks, and Unigram's pieces, which nothing is made of
            if len(kept) < size:
                kept.add(piece)
        self._add_merged(kept, merges, size)
        return kept, merges

    def _add_merged(self, kept: set[str], merges: set[tuple[str, str]], size: int) -> None:
        """The most common pieces whose parts are kept, in order of rank."""
        for left, right in self.merges:
            if len(kept) >= size:
                break
            whole = left + right
            if whole not in kept and left in kept and right in kept and self.making(whole)[-1:] == [(left, right)]:
                kept.add(whole)
                merges.add((left, right))

    @cached_property
    def _by_id(self) -> list[str]:
        return sorted(self.ids, key=self.ids.__getitem__)

    def trimmed(self, kept: set[str], merges: set[tuple[str, str]]) -> tuple[dict[str, Any], list[int]]:
        """The new tokenizer.json, and the old id of each new one. The order of ids stays."""
        missing = self.safe - kept
        if missing:
            raise ModelError(f"The trimmed vocabulary misses {', '.join(sorted(missing)[:5])}, which the model needs.")
        old = sorted({self.ids[piece] for piece in kept})
        new = {before: after for after, before in enumerate(old)}
        model = dict(self.model)
        if model["type"] == "Unigram":
            model["vocab"] = [model["vocab"][before] for before in old if before < len(model["vocab"])]
            if model.get("unk_id") is not None:
                model["unk_id"] = new[model["unk_id"]]
        else:
            model["vocab"] = {p: new[i] for p, i in self.model["vocab"].items() if p in kept}
            spelled = isinstance(self.model["merges"][0], str) if self.model["merges"] else False
            model["merges"] = [" ".join(m) if spelled else list(m) for m in self.merges if m in merges]
        value = {**self.value, "model": model}
        value["added_tokens"] = [{**token, "id": new[token["id"]]} for token in self.added]
        if value.get("post_processor"):
            value["post_processor"] = _renumbered(value["post_processor"], new)
        return value, old


def _renumbered(processor: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """A post-processor's special tokens carry ids of their own."""
    made = dict(processor)
    if made.get("type") == "Sequence":
        made["processors"] = [_renumbered(part, new) for part in made["processors"]]
    if isinstance(made.get("special_tokens"), dict):
        made["special_tokens"] = {
            name: {**entry, "ids": [new[i] for i in entry["ids"]]} for name, entry in made["special_tokens"].items()
        }
    for name in ("sep", "cls"):
        if isinstance(made.get(name), Sequence):
            made[name] = [made[name][0], new[made[name][1]]]
    return made


def _parts(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if decoder:
        yield decoder
        for part in decoder.get("decoders", ()):
            yield from _parts(part)
