"""Grammars: whatever a model would like to say, what it says follows the schema."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from pennyweight.engines.batching.grammar import Grammars
from pennyweight.errors import EngineError, EngineRefused
from pennyweight.generation import Form

END = 0
PADDED = 300  # logits of the model: more than its tokenizer has tokens
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["colour", "count", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer of single bytes and an end token."""
    place = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<end>": END, **{piece: number + 1 for number, piece in enumerate(alphabet)}}
    made = tokenizers.Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    made.add_special_tokens(["<end>"])
    made.save(str(place / "tokenizer.json"))
    return place


@pytest.fixture(scope="module")
def grammars(directory: Path) -> Grammars:
    return Grammars(directory)


def schema_of(schema: object) -> Form:
    return Form("json_schema", json.dumps(schema))


def written(grammars: Grammars, directory: Path, seed: int, form: object = SCHEMA, most: int = 400) -> str | None:
    """What a model of random taste writes under the schema; None where it does not come to an end."""
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    grammar = grammars.compile(form if isinstance(form, Form) else schema_of(form), (END,))
    taste, tokens = np.random.default_rng(seed), []
    for _ in range(most):
        logits = taste.normal(size=PADDED).astype(np.float32)
        allowed = grammar.masked(logits)
        assert np.isfinite(allowed).any() and not np.isfinite(allowed[tokenizer.get_vocab_size() :]).any()
        assert (allowed[np.isfinite(allowed)] == logits[np.isfinite(allowed)]).all()
        token = int(allowed.argmax())
        if token == END:
            return tokenizer.decode(tokens)
        grammar.take(token)
        tokens.append(token)
    return None


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_ends_follows_the_schema(grammars: Grammars, directory: Path, seed: int) -> None:
    text = written(grammars, directory, seed)
    assert text is not None  # blanks are bounded, so that it comes to its end
    jsonschema.validate(json.loads(text), SCHEMA)


def test_each_answer_has_a_state_of_its_own(grammars: Grammars, directory: Path) -> None:
    first, second = (grammars.compile(schema_of({"enum": ["a", "b"]}), (END,)) for _ in range(2))
    flat = np.zeros(PADDED, np.float32)
    opening = int(first.masked(flat).argmax())
    first.take(opening)
    assert np.isfinite(second.masked(flat)[opening]) and not np.isfinite(first.masked(flat)[opening])


def test_a_schema_that_cannot_be_followed_is_refused(grammars: Grammars) -> None:
    with pytest.raises(EngineRefused, match="cannot be followed"):
        grammars.compile(schema_of({"$ref": "#/nowhere"}), (END,))
    for wrong in (Form("regex", "(["), Form("grammar", "root := nothing"), Form("grammar", "root ::= missing")):
        with pytest.raises(EngineRefused, match="cannot be"):
            grammars.compile(wrong, (END,))


def test_a_model_without_an_end_token_cannot_end_a_document(grammars: Grammars) -> None:
    with pytest.raises(EngineRefused, match="no end token"):
        grammars.compile(schema_of({"type": "boolean"}), ())


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (Form("choice", '["yes", "no \\"way\\"", "ümlaut"]'), r'yes|no "way"|ümlaut'),
        (Form("regex", r"^[a-c]{2}-[0-9]{3}$"), r"[a-c]{2}-[0-9]{3}"),
        (Form("grammar", 'root ::= "a" [0-9] ("x" | "y")'), r"a[0-9](x|y)"),
        (Form("grammar", 'start: "b" /[0-9]/'), r"b[0-9]"),
    ],
)
def test_choices_expressions_and_grammars_are_followed(
    grammars: Grammars, directory: Path, form: Form, pattern: str
) -> None:
    texts = {written(grammars, directory, seed, form) for seed in range(12)}
    assert all(text is not None and re.fullmatch(pattern, text) for text in texts)
    assert len(texts) > 1


def test_schemas_with_pattern_and_one_of_are_followed(grammars: Grammars, directory: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Z]{3}$"},
            "v": {"oneOf": [{"const": 1}, {"const": "x"}]},
        },
        "required": ["id", "v"],
        "additionalProperties": False,
    }
    for seed in range(6):
        text = written(grammars, directory, seed, schema)
        assert text is not None
        jsonschema.validate(json.loads(text), schema)


def test_a_compact_document_has_no_blanks(grammars: Grammars, directory: Path) -> None:
    form = Form("json_schema", json.dumps(SCHEMA), compact=True)
    for seed in range(4):
        text = written(grammars, directory, seed, form)
        assert text == json.dumps(json.loads(text or ""), separators=(",", ":"))


def test_an_escaped_dollar_is_a_letter(grammars: Grammars, directory: Path) -> None:
    assert written(grammars, directory, 1, Form("regex", r"cost 5\$")) == "cost 5$"
    assert written(grammars, directory, 1, Form("regex", r"^\^yes\$$")) == "^yes$"


@pytest.mark.parametrize(
    "form",
    [
        Form("regex", r"[^\s\S]"),
        Form("regex", "((((((a{1,30}){1,30}){1,30}){1,30}){1,30}){1,30})"),
        Form("grammar", "start: " + '("a" | "aa" | start)? ' * 60),
        Form("json_schema", '{"$ref": "#"}'),
        Form("json_schema", json.dumps({"properties": {f"p{n}": {"type": "string"} for n in range(2000)}})),
    ],
)
def test_a_form_that_overwhelms_the_library_is_refused_or_followed_in_time(
    grammars: Grammars, directory: Path, form: Form
) -> None:
    began = time.monotonic()
    with contextlib.suppress(EngineRefused, EngineError):
        written(grammars, directory, 1, form, 5)
    assert time.monotonic() - began < 10
