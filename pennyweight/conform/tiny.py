"""Tiny random models on disk, and what stock transformers answers with them. Runs in a process that has torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pennyweight.conform.cases import CONTEXT, VOCABULARY, Case

SPECIAL = ("<|bos|>", "<|pad|>", "<|end|>")
# Tokens that are never the likeliest: an end token would end one engine and not another, and of bytes that are no whole
# character, servers report a text and no token.
UNLIKELY = 165
LENGTHS = (5, 90, 33)  # of the prompts: short, beyond every window and original context, between
TOKENS = 12
SPREAD = 0.1  # standard deviation of the weights
STEPS = 64  # weights are multiples of 1/64, which 16 bits hold exactly: no conversion changes them


@dataclass(frozen=True)
class Truth:
    """One prompt: the greedy answer, at each of its places all tokens' log-probabilities, and by how many nats 16-bit
    floats change one of the answer in transformers itself (a near tie between experts changes much)."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    logprobs: tuple[tuple[float, ...], ...]  # (tokens, vocabulary)
    noise: float = 0.0


def make(case: Case, directory: Path, tokenizer: Path) -> list[Truth]:
    """Write the case's model to the directory and return what transformers answers with it."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.model_type, **case.whole_config)).float()
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or "bias" in name or "sinks" in name:
                spread = SPREAD * (case.embedding_spread if "embed" in name or "wte" in name else 1.0)
                parameter.normal_(0, spread).mul_(STEPS).round_().div_(STEPS)
        for head in (model.get_output_embeddings(), model.get_input_embeddings() if _tied(model) else None):
            if head is not None:
                head.weight[:UNLIKELY] = 0
    model.generation_config.eos_token_id = 2
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, directory / name)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    found = [_answered(model, length) for length in LENGTHS]
    half = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float16).eval()
    return [replace(truth, noise=_noise(half, truth)) for truth in found]


def _tied(model: Any) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False))


def _answered(model: Any, length: int) -> Truth:
    import torch

    generator = torch.Generator().manual_seed(length)
    prompt = torch.randint(len(SPECIAL), VOCABULARY, (1, length), generator=generator)
    with torch.no_grad():
        whole = model.generate(prompt, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=2)
        logits = model(whole, use_cache=False).logits[0].float()
    logprobs = torch.log_softmax(logits, -1)[length - 1 : -1]
    answer = whole[0, length:].tolist()
    return Truth(tuple(prompt[0].tolist()), tuple(answer), tuple(map(tuple, logprobs.tolist())))


def _noise(half: Any, truth: Truth) -> float:
    """0 where this architecture does not compute in 16 bits on this machine."""
    import torch

    try:
        with torch.no_grad():
            logits = half(torch.tensor([[*truth.prompt, *truth.answer]]), use_cache=False).logits[0].float()
    except (RuntimeError, NotImplementedError, TypeError):
        return 0.0
    found = torch.log_softmax(logits, -1)[len(truth.prompt) - 1 : -1]
    noise = max(abs(float(found[n, token]) - truth.logprobs[n][token]) for n, token in enumerate(truth.answer))
    return noise if noise == noise else 0.0


def tokenizer(directory: Path) -> Path:
    """A byte-level tokenizer with single bytes and numbered words, for models of `VOCABULARY` tokens."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda stand_in: (stand_in.isascii(), stand_in))
    pieces = [*SPECIAL, *letters]
    assert [piece.isascii() for piece in pieces].index(True, len(SPECIAL)) == UNLIKELY
    merges = [(a, b) for a in "abcdefghijklmno" for b in "aeiouyrstlnmkpd"][: VOCABULARY - len(pieces)]
    vocabulary = {piece: n for n, piece in enumerate([*pieces, *("".join(pair) for pair in merges)])}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    directory.mkdir(parents=True, exist_ok=True)
    made.save(str(directory / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0], "eos_token": SPECIAL[2]}
    config = {**names, "pad_token": SPECIAL[1], "unk_token": SPECIAL[1], "model_max_length": CONTEXT}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
