"""Tiny random checkpoints of the architectures in the table of conformance, and what transformers makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pennyweight.conform.cases import CASES
from pennyweight.conform.tiny import make, tokenizer
from pennyweight.model import Lineage, Model

TEXT = tuple(f"The {n}th list of things has {n * n} entries, none of them lost." for n in range(90))


def made_case(case: str, place: Path) -> Model:
    """A tiny random checkpoint of this case of the conformance table."""
    words = tokenizer(place / "tokenizer")
    make(next(c for c in CASES if c.name == case), place / "model", words)
    return Model(place / "model", "huggingface", "F32", Lineage("tiny", {}))


def logits(directory: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokens = torch.randint(3, 480, (1, 70), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return model(tokens, use_cache=False).logits[0]
