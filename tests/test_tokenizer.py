"""The tokenizer and chat template of a checkpoint, whatever its files look like."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pennyweight.errors import ModelError
from pennyweight.tokenizer import Tokenizer

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
USER = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory: Path) -> Tokenizer:
    return Tokenizer(tokenizer_directory)


@pytest.fixture
def directory(tokenizer_directory: Path, tmp_path: Path) -> Path:
    shutil.copytree(tokenizer_directory, tmp_path / "t")
    return tmp_path / "t"


def configure(directory: Path, **values: Any) -> None:
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def chat_text(directory: Path, messages: list[dict[str, str]] = USER) -> str:
    tokenizer = Tokenizer(directory)
    return str(tokenizer.backend.decode(tokenizer.chat(messages), skip_special_tokens=False))


@STEADY
@given(text=st.text(max_size=40))
def test_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert all(0 <= token < tokenizer.vocabulary_size for token in tokens)


def test_special_tokens_are_read_as_one_and_not_shown(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_end|>") == [2]
    assert tokenizer.decode([2]) == ""
    assert tokenizer.token_text(2) == "<|im_end|>"
    assert tokenizer.vocabulary_size == 512


def test_the_template_frames_the_messages_and_asks_for_an_answer(tokenizer_directory: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *USER]
    assert chat_text(tokenizer_directory, messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_file_goes_before_the_config(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{{ bos_token }}[{{ messages[0].content }}]")
    assert chat_text(directory) == "<|endoftext|>[Hello there]"


def test_of_named_templates_the_default_one_is_used(directory: Path) -> None:
    configure(directory, chat_template=[{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}])
    assert chat_text(directory) == "yes"


def test_special_tokens_may_be_written_as_objects(directory: Path) -> None:
    configure(directory, eos_token={"content": "<|im_end|>", "lstrip": False}, chat_template="{{ eos_token }}")
    assert chat_text(directory) == "<|im_end|>"


@pytest.mark.parametrize("template", ["", None, []])
def test_without_a_template_messages_are_paragraphs(template: object, directory: Path) -> None:
    configure(directory, chat_template=template)
    assert chat_text(directory, [*USER, {"role": "user", "content": "Again"}]) == "Hello there\n\nAgain"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "Hello there"}]'),
        ("{% for m in messages %}{% if true %}{% break %}{% endif %}{% endfor %}done", "done"),
        ("{% if tools %}tools{% else %}none{% endif %}", "none"),
        ("{% if true %}\n  {{ 'x' }}\n{% endif %}\ny", "  x\ny"),
        ("{% generation %}x{% endgeneration %}", "x"),
    ],
    ids=["tojson", "break", "tools", "trimmed blocks", "generation"],
)
def test_what_templates_on_the_hub_rely_on_is_there(template: str, expected: str, directory: Path) -> None:
    configure(directory, chat_template=template)
    assert chat_text(directory) == expected


def test_the_date_is_there_for_templates_that_ask(directory: Path) -> None:
    configure(directory, chat_template="{{ strftime_now('%Y') }}")
    assert int(chat_text(directory)) >= 2024


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content.strip() }}", "chat template"),
        ("{{ 1 / 0 }}", "chat template"),
        ("{% for %}", "chat template"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "chat template"),
    ],
    ids=["refusal", "missing message", "arithmetic", "syntax", "escape from the sandbox"],
)
def test_a_template_that_fails_is_a_model_error(template: str, word: str, directory: Path) -> None:
    configure(directory, chat_template=template)
    with pytest.raises(ModelError, match=word):
        Tokenizer(directory).chat(USER)


def test_the_end_tokens_are_those_of_all_configs(directory: Path) -> None:
    (directory / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    (directory / "config.json").write_text('{"eos_token_id": 0}')
    assert Tokenizer(directory).end_tokens == (0, 1, 2)


def test_without_configs_the_tokenizers_own_end_token_is_used(directory: Path) -> None:
    (directory / "config.json").unlink()
    assert Tokenizer(directory).end_tokens == (2,)
    configure(directory, eos_token=None)
    assert Tokenizer(directory).end_tokens == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [("tokenizer.json", None), ("tokenizer.json", "{}"), ("tokenizer.json", "garbage"), ("tokenizer_config.json", "{")],
)
def test_a_damaged_tokenizer_is_refused_by_name(name: str, text: str | None, directory: Path) -> None:
    if text is None:
        (directory / name).unlink()
    else:
        (directory / name).write_text(text)
    with pytest.raises(ModelError, match=f"{name}.*(copy|save)"):
        Tokenizer(directory)


def test_the_generation_config_when_damaged_is_refused_by_name(directory: Path) -> None:
    (directory / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        _ = Tokenizer(directory).end_tokens
