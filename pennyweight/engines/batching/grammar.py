"""JSON schemas, choices, regular expressions and grammars as masks over the next token, for
runtimes that return logits. By llguidance (MIT), which walks the vocabulary as a trie: under a millisecond a token."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pennyweight.engines.batching.sampling import Logits
from pennyweight.errors import EngineError, EngineRefused
from pennyweight.generation import Form

WHITESPACE = r"\n? {0,8}"  # between two parts: room to indent, none to write blanks until the answer is cut

COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}


class Grammar:
    """What one answer may go on with. It has a state: each token of the answer is passed to `take`."""

    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((1, words), np.int32)

    def masked(self, logits: Logits) -> Logits:
        """These logits (vocabulary,) with -inf for every token that the schema forbids here."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits, 0)
        if self._matcher.is_error():
            raise EngineError(f"The answer cannot follow its schema any further: {_first_line(self._matcher)}")
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        kept = np.zeros(len(logits), bool)  # a model can have more logits than its tokenizer has tokens
        kept[: len(allowed)] = allowed[: len(logits)]
        return np.where(kept, logits, np.float32(-np.inf))

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)


class Grammars:
    """Makes the grammars of one model. Its tokenizer's trie takes a third of a second, and is made for the first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tokenizers: dict[tuple[int, ...], Any] = {}

    def compile(self, form: Form, ends: Sequence[int]) -> Grammar:
        """What the form allows, token by token; an answer may end where it is whole, by one of `ends`. Raises
        `EngineRefused` for a form that cannot be followed."""
        from llguidance import LLMatcher

        tokenizer = self._tokenizer(tuple(ends))
        try:
            matcher = LLMatcher(tokenizer, _grammar(form), limits=_limits())
        except EngineRefused:
            raise
        except Exception as error:  # of the library: the form is at fault, and not the engine
            raise EngineRefused(f"The {form.kind} cannot be followed ({error}): simplify it.") from None
        if matcher.is_error():
            raise EngineRefused(f"The {form.kind} cannot be followed ({_first_line(matcher)}): simplify it.")
        return Grammar(matcher, (tokenizer.vocab_size + 31) // 32)

    def _tokenizer(self, ends: tuple[int, ...]) -> Any:
        from llguidance import LLTokenizer

        if not ends:
            raise EngineRefused("The model has no end token, so no answer could be a whole document: name one.")
        if ends not in self._tokenizers:
            text = (self._directory / "tokenizer.json").read_text(encoding="utf-8")
            json.loads(text)  # a damaged file is named by the tokenizer, not taken for a model's name
            self._tokenizers[ends] = LLTokenizer(text, eos_token=list(ends))
        return self._tokenizers[ends]


def _first_line(matcher: Any) -> str:
    lines: list[str] = str(matcher.get_error()).splitlines() or ["no reason given"]
    return lines[0]


def _grammar(form: Form) -> str:
    """In llguidance's own form. A grammar is Lark, or GBNF where it is written with ::=."""
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark

    if form.kind == "json_schema":
        blanks: Any = COMPACT if form.compact else {"whitespace_pattern": WHITESPACE}
        return str(LLMatcher.grammar_from_json_schema(form.text, overrides=blanks))
    if form.kind == "regex":
        return str(LLMatcher.grammar_from_regex(_without_anchors(form.text)))
    if form.kind == "choice":
        choices = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in json.loads(form.text))
        return str(LLMatcher.grammar_from_lark(f"start: {choices}"))
    try:
        return str(LLMatcher.grammar_from_lark(any_to_lark(form.text)))
    except Exception as error:  # the converter raises bare ones
        raise EngineRefused(f"The grammar cannot be read ({error}): send GBNF or Lark.") from None


def _without_anchors(expression: str) -> str:
    """An expression always matches the whole answer; an escaped $ is a letter."""
    ends = re.search(r"(\\*)\$$", expression)
    anchored = ends is not None and len(ends[1]) % 2 == 0
    return (expression[:-1] if anchored else expression).removeprefix("^")


def _limits() -> Any:
    """Below the library's own: what takes longer would hold up everybody's next step."""
    from llguidance import LLParserLimits

    return LLParserLimits(initial_lexer_fuel=100_000, max_grammar_size=100_000)
