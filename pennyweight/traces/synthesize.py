"""Prompts for length-only traces: exactly the recorded token counts, prefixes shared where the hashes say so."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from pennyweight import traces
from pennyweight.errors import WorkloadError
from pennyweight.workload import Request, Workload, texts


def synthesize(workload: Workload, encode: Callable[[str], Sequence[int]], seed: int = 0) -> Workload:
    """Give every request that has only a `shape` its prompt tokens, cut from our own texts at seeded places.

    Natural text is used because filler (one word repeated, random ids) flatters speculation and prefix caches.
    Equal block hashes give equal tokens; a block without a hash is unique to its request.
    """
    if all(request.shape is None for request in workload.requests):
        return workload
    corpus = [token for text in texts(traces.load("extract").requests) for token in encode(text)]
    if len(corpus) < 64:
        raise WorkloadError("The tokenizer makes too few tokens of the built-in texts: does it belong to the model?")
    blocks: dict[str, list[int]] = {}
    made = [_with_tokens(request, corpus, blocks, seed) if request.shape else request for request in workload.requests]
    return replace(workload, requests=tuple(made))


def _with_tokens(request: Request, corpus: list[int], blocks: dict[str, list[int]], seed: int) -> Request:
    assert request.shape is not None
    tokens: list[int] = []
    for block_hash in request.shape.block_hashes:
        if block_hash not in blocks:
            blocks[block_hash] = _cut(corpus, request.shape.block_size, f"{seed}:{block_hash}")
        tokens.extend(blocks[block_hash])
    missing = request.shape.tokens - len(tokens)
    if missing > 0:
        tokens.extend(_cut(corpus, missing, f"{seed}:own:{request.id}"))
    return replace(request, prompt_tokens=tuple(tokens[: request.shape.tokens]), shape=None)


def _cut(corpus: list[int], length: int, key: str) -> list[int]:
    """`length` tokens of running text from places that depend on the key alone."""
    generator = random.Random(hashlib.sha256(key.encode()).digest())
    tokens: list[int] = []
    while len(tokens) < length:
        start = generator.randrange(len(corpus) - 32)
        tokens.extend(corpus[start : start + min(512, length - len(tokens))])
    return tokens
