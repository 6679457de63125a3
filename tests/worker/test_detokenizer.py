"""TextStream: tokens become the same text however they arrive, whole characters only, cut before the first stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pennyweight.tokenizer import Tokenizer
from pennyweight.worker.detokenizer import TextStream

LETTERS = "aab \néñ漢字かな😀👩STOP!."
texts = st.text(alphabet=LETTERS, max_size=40)
stops = st.lists(st.text(alphabet="ab S漢😀", min_size=1, max_size=4), max_size=3)
splits = st.lists(st.integers(1, 5), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory: Path) -> Tokenizer:
    return Tokenizer(tokenizer_directory)


def streamed(tokenizer: Tokenizer, tokens: Sequence[int], split: Sequence[int], stop: Sequence[str] = ()) -> str:
    stream, pieces, place, turn = TextStream(tokenizer, stop), [], 0, 0
    while place < len(tokens):
        size = split[turn % len(split)]
        pieces.append(stream.push(tokens[place : place + size]))
        place, turn = place + size, turn + 1
    return "".join(pieces) + stream.finish()


def cut(text: str, stop: Sequence[str]) -> str:
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]


@given(text=texts, stop=stops, split=splits)
def test_pieces_add_up_to_the_text_before_the_first_stop(
    tokenizer: Tokenizer, text: str, stop: list[str], split: list[int]
) -> None:
    assume(not any(a in b for a in stop for b in stop if a != b))
    assert streamed(tokenizer, tokenizer.encode(text), split, stop) == cut(text, stop)


@given(text=texts, stop=stops, split=splits)
@example(text="STOP!", stop=["STOP", "T"], split=[5])
def test_the_split_does_not_change_the_text_even_where_one_stop_holds_another(
    tokenizer: Tokenizer, text: str, stop: list[str], split: list[int]
) -> None:
    tokens = tokenizer.encode(text)
    assert streamed(tokenizer, tokens, split, stop) == streamed(tokenizer, tokens, [1], stop)


@given(text=texts, keep=st.integers(0, 60), split=splits)
def test_a_character_cut_off_at_the_end_is_never_sent_broken(
    tokenizer: Tokenizer, text: str, keep: int, split: list[int]
) -> None:
    tokens = tokenizer.encode(text)[:keep]
    assert streamed(tokenizer, tokens, split) == tokenizer.decode(tokens).rstrip("\ufffd")


@given(tokens=st.lists(st.integers(0, 511), max_size=30))
def test_any_tokens_can_be_streamed(tokenizer: Tokenizer, tokens: list[int]) -> None:
    whole = tokenizer.decode(tokens)
    assert streamed(tokenizer, tokens, [1]).rstrip("\ufffd") == whole.rstrip("\ufffd")


@pytest.mark.parametrize("text", ["😀👩‍🚀🎉", "漢字とかな", "naïve café"])
def test_multi_byte_characters_arrive_whole(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert len(tokens) > len(text) // 2  # the characters really are split over tokens
    stream = TextStream(tokenizer)
    pieces = [stream.push([token]) for token in tokens]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_nothing_of_a_stop_string_gets_out_before_it_is_known(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ["END"])
    assert stream.push(tokenizer.encode("one E")) == "one "
    assert not stream.stopped
    assert stream.push(tokenizer.encode("ND two")) == ""
    assert stream.stopped
    assert stream.push(tokenizer.encode("three")) + stream.finish() == ""


def test_what_only_began_like_a_stop_string_is_sent_at_the_end(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ["END"])
    assert stream.push(tokenizer.encode("one EN")) == "one "
    assert stream.finish() == "EN"


def test_an_empty_stop_string_stops_nothing(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, tokenizer.encode("hello"), [1], [""]) == "hello"


def test_special_tokens_are_no_text(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, [1, *tokenizer.encode("hi"), 2], [1]) == "hi"
