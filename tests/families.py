"""Tiny tokenizers as the families of decoders have them, trained on our own prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pennyweight import traces
from pennyweight.workload import texts

SIZE = 480
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
Built = tuple[tokenizers.Tokenizer, dict[str, Any]]


def _train(made: tokenizers.Tokenizer, special: list[str], trainer: Any = trainers.BpeTrainer, **more: Any) -> None:
    chosen = trainer(vocab_size=SIZE, special_tokens=special, show_progress=False, **more)
    made.train_from_iterator(texts(traces.load("chat").requests), chosen)


def _byte_level(pre: list[Any], special: list[str], normalizer: Any = None) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pre)
    made.pre_tokenizer = pre_tokenizers.Sequence([*pre, last])
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    _train(made, special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return made


def _with_bos(made: tokenizers.Tokenizer, bos: str) -> None:
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, made.token_to_id(bos))]
    )


def gpt2() -> Built:
    made = _byte_level([], ["<|endoftext|>"])
    return made, {"tokenizer_class": "GPT2Tokenizer"}


def llama3() -> Built:
    made = _byte_level([pre_tokenizers.Split(Regex(WORDS), "isolated")], ["<|begin_of_text|>", "<|eot_id|>"])
    _with_bos(made, "<|begin_of_text|>")
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return made, {"tokenizer_class": "PreTrainedTokenizerFast", **names}


def qwen2() -> Built:
    pre = [pre_tokenizers.Split(Regex(WORDS), "isolated")]
    made = _byte_level(pre, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizers.NFC())
    return made, {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def _sentencepiece(
    *, prefix: bool, metaspace: bool = False, bos: str = "<s>", eos: str = "</s>"
) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if prefix else "never", split=False)
    else:
        steps = [normalizers.Prepend("▁")] if prefix else []
        made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    _train(made, ["<unk>", bos, eos, *pieces], max_token_length=8)
    plain = json.loads(made.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if token["content"] not in pieces]
    made = tokenizers.Tokenizer.from_str(json.dumps(plain))
    _with_bos(made, bos)
    return made


def llama2() -> Built:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _sentencepiece(prefix=True), {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **names}


def mistral() -> Built:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}
    return _sentencepiece(prefix=True, metaspace=True), {"tokenizer_class": "LlamaTokenizerFast", **names}


def gemma() -> Built:
    made = _sentencepiece(prefix=False, bos="<bos>", eos="<eos>")
    return made, {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}


def deepseek() -> Built:
    pre = [pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.Split(Regex(WORDS), "isolated")]
    made = _byte_level(pre, ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"])
    _with_bos(made, "<｜begin▁of▁sentence｜>")
    names = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "add_bos_token": True}
    return made, {"tokenizer_class": "LlamaTokenizerFast", **names}


def starcoder() -> Built:
    made = _byte_level([pre_tokenizers.Digits(individual_digits=True)], ["<|endoftext|>", "<fim_prefix>"])
    return made, {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|endoftext|>"}


def falcon() -> Built:
    pre = [pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]
    return _byte_level(pre, ["<|endoftext|>"]), {"tokenizer_class": "PreTrainedTokenizerFast"}


def cohere() -> Built:
    made = _byte_level(
        [pre_tokenizers.Digits(individual_digits=True)], ["<BOS_TOKEN>", "<EOS_TOKEN>"], normalizers.NFC()
    )
    _with_bos(made, "<BOS_TOKEN>")
    return made, {"tokenizer_class": "CohereTokenizer", "bos_token": "<BOS_TOKEN>", "eos_token": "<EOS_TOKEN>"}


def unigram() -> Built:
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    _train(made, ["<unk>", "<s>", "</s>"], trainers.UnigramTrainer, unk_token="<unk>")
    return made, {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>"}


FAMILIES: dict[str, Callable[[], Built]] = {
    made.__name__: made
    for made in (gpt2, llama3, qwen2, llama2, mistral, gemma, deepseek, starcoder, falcon, cohere, unigram)
}


def save(family: str, directory: Path, **config: Any) -> None:
    made, names = FAMILIES[family]()
    made.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({**names, **config}))
