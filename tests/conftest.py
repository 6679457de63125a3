"""Tiny real parts that tests share: a trained tokenizer, a random Llama checkpoint, scripted deployments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from pennyweight import paths, traces
from pennyweight.deployment import Deployment
from pennyweight.serve import Endpoint, open_engine
from pennyweight.workload import texts

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 512
VOCABULARY = 512
ENGINES = paths.engines_directory()  # the user's, before any test changes the cache


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or fills the user's cache."""
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("PENNYWEIGHT_ENGINES", str(ENGINES))


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer trained on our own prompts, with a chat template, and a config.json beside it."""
    directory = tmp_path_factory.mktemp("tokenizer")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts(traces.load("chat").requests), trainer)
    backend.save(str(directory / "tokenizer.json"))
    names = {"bos_token": special[0], "eos_token": special[2], "unk_token": special[0], "pad_token": special[2]}
    tokenizer_config = {**names, "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    config = {"model_type": "llama", "max_position_embeddings": CONTEXT, "eos_token_id": 2, "vocab_size": VOCABULARY}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path) -> Path:
    """A random two-layer Llama in the Hugging Face shape, float32."""
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama", tokenizer_directory, head_dim=16)


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path) -> Path:
    """The same with heads that vLLM has attention for on a CPU."""
    return tiny_llama(tmp_path_factory.mktemp("models") / "wide-llama", tokenizer_directory, head_dim=32)


def tiny_llama(directory: Path, tokenizer_directory: Path, head_dim: int) -> Path:
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_directory / name, directory / name)
    return directory


@pytest.fixture
def scripted(tokenizer_directory: Path) -> Callable[..., Deployment]:
    """Makes deployments of the scripted engine, with settings by name."""

    def make(**settings: Any) -> Deployment:
        return Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", settings)

    return make


@pytest.fixture(scope="module")
def scripted_endpoint(tokenizer_directory: Path) -> Iterator[Endpoint]:
    """One running scripted engine for a module's tests."""
    with open_engine(
        Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", {"max_num_seqs": 64})
    ) as endpoint:
        yield endpoint
