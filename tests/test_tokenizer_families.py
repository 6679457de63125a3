"""Texts become the token ids that transformers' own tokenizer for the checkpoint makes of them, or the checkpoint is
refused: eleven families of tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pennyweight.checks.architecture import check_prompts
from pennyweight.checks.stock import prompts
from pennyweight.errors import ModelError
from pennyweight.tokenizer import Tokenizer
from tests.families import FAMILIES, save

# transformers builds these anew from their vocabulary by rules of its own, which these tokenizer.json do not follow.
REBUILT = ("llama2", "starcoder", "cohere")
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}[assistant]"
Both = tuple[Tokenizer, Any]


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    directory: Path = tmp_path_factory.mktemp("family")
    save(request.param, directory, chat_template=TEMPLATE)
    if request.param in REBUILT:
        with pytest.raises(ModelError, match="save_pretrained"):
            check_prompts(directory, prompts(directory))
        AutoTokenizer.from_pretrained(directory).save_pretrained(directory)  # as the refusal says
    check_prompts(directory, prompts(directory))
    return Tokenizer(directory), AutoTokenizer.from_pretrained(directory)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(st.sampled_from("abcé ßX .,'12\n\t🙂▁中<>s/"), max_size=24))
def test_texts_are_the_same_tokens(both: Both, text: str) -> None:
    ours, theirs = both
    assert ours.encode(text) == theirs(text)["input_ids"]
    plain = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text, add_special_tokens=False) == plain
    assert ours.decode(plain) == theirs.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(contents=st.lists(st.text(st.sampled_from("ab é.\n🙂"), max_size=8), min_size=1, max_size=3))
def test_chats_are_the_same_tokens(both: Both, contents: list[str]) -> None:
    ours, theirs = both
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ours.chat(messages) == wanted
