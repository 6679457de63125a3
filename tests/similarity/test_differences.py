"""What speaks against two questions having one answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.similarity import differences
from pennyweight.similarity.differences import Question
from pennyweight.similarity.numbers import numbers_of
from pennyweight.similarity.volatile import Volatile
from pennyweight.similarity.words import alike, same_meaning, stem


@pytest.mark.parametrize(
    "what, first, second",
    [
        ("negation", "Is it included?", "Is it not included?"),
        ("negation", "Can I pay by card?", "Can't I pay by card?"),
        ("opposites", "How do I lock my card?", "How do I unlock my card?"),
        ("opposites", "Is the shop open on Sunday?", "Is the shop closed on Sunday?"),
        ("opposites", "Is it refundable?", "Is it nonrefundable?"),
        ("other_numbers", "Remind me at 7am", "Remind me at 7pm"),
        ("other_numbers", "A loan of £2,000", "A loan of £20,000"),
        ("other_numbers", "after two years", "after three years"),
        ("other_dates", "Is it free on Monday?", "Is it free on Tuesday?"),
        ("other_codes", "Track order HH-55102", "Track order HH-55120"),
        ("other_names", "What is the capital of Austria?", "What is the capital of Australia?"),
        ("other_people", "What must my son bring?", "What must I bring?"),
        ("other_order", "Move it from Paris to Rome", "Move it from Rome to Paris"),
        ("other_order", "Convert a Word file to PDF", "Convert a PDF file to Word"),
        ("other_question", "Who opens it?", "When is it opened?"),
        ("other_language", "What is it?", "Что это?"),
    ],
)
def test_each_difference_is_seen(what: str, first: str, second: str) -> None:
    found = getattr(differences, what)
    assert found(Question(first), Question(second)) > 0
    assert found(Question(second), Question(first)) > 0
    assert found(Question(first), Question(first)) == 0


@pytest.mark.parametrize(
    "first, second",
    [
        ("Transfer £50 please", "transfer fifty pounds"),
        ("What's 15% of 200?", "fifteen per cent of 200"),
        ("Return it after 14 days", "return it after two weeks"),
        ("When do I get my P60?", "when will i receive my p60"),
        ("Is there Wi-Fi?", "is there wi-fi"),
        ("Flights from London to Rome", "flights to Rome from London"),
        ("Can I park near the hall?", "Near the hall, can I park?"),
    ],
)
def test_the_same_in_other_words_is_no_difference(first: str, second: str) -> None:
    guards = (differences.negation, differences.opposites, differences.other_numbers, differences.other_dates)
    others = (differences.other_codes, differences.other_names, differences.turned)
    assert [guard(Question(first), Question(second)) for guard in (*guards, *others)] == [0] * 7
    assert not differences.vetoed(Question(first), Question(second))


def test_slips_and_endings_do_not_matter() -> None:
    assert alike("appointment", "apointment") and alike("child", "chlid") and not alike("cat", "car")
    assert stem("renewing") == stem("renewed") == stem("renews") and same_meaning(stem("shops"), stem("store"))


def test_numbers_have_one_spelling() -> None:
    assert numbers_of("twenty-five kg") == numbers_of("25 kilos") == [("25", "kg")]
    assert numbers_of("at 9:15") == [("9:15", "")] and numbers_of("one of them") == []


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_texts_are_compared(first: str, second: str) -> None:
    one, other = Question(first), Question(second)
    for name in ("negation", "opposites", "other_numbers", "other_dates", "other_codes", "other_names", "other_order"):
        found = getattr(differences, name)
        assert found(one, other) >= 0 and found(one, one) == 0


def test_what_depends_on_the_moment_or_on_who_asks_is_found() -> None:
    volatile = Volatile(["flash sale"])
    for text in ("what is my  balance", "What is my current balance?", "the balance of my account", "flash  sale?"):
        assert volatile(text), text
    for text in ("What time is it?", "weather in London", "Has my refund arrived?", "Who won last night?"):
        assert volatile(text), text
    for text in ("What is it NOW?", "Where’s my parcel", "my balance please", "Is the flash sale on?", "Did I pay?"):
        assert volatile(text), text
    for text in ("How do I reset my password?", "Do you know knowhow?", "What is a standing order?"):
        assert not volatile(text), text


@pytest.mark.parametrize(
    "first, second",
    [
        ("如何启用双重验证", "如何禁用双重验证"),
        ("Is 1/2 more than 1/3?", "Is 1/3 more than 1/2?"),
        ("Is 5 greater than 7?", "Is 7 greater than 5?"),
        ("What is 7 - 5?", "What is 5 - 7?"),
        ("What is 12 + 30?", "What is 12 - 30?"),
        ("Where is parcel 123456789012345671?", "Where is parcel 123456789012345672?"),
        ("What is new in 3.1?", "What is new in 3.10?"),
        ("Must I pay tax on gifts?", "Can I pay tax on gifts?"),
        ("Are all fees refunded?", "Are some fees refunded?"),
        ("Did Alice hit Bob?", "Did Bob hit Alice?"),
        ("Can a landlord evict a tenant?", "Can a tenant evict a landlord?"),
        ("How do I sort in C++?", "How do I sort in C#?"),
        ("What does > do?", "What does < do?"),
        ("Translate this to French", "Translate this from French"),
    ],
)
def test_traps_have_a_veto(first: str, second: str) -> None:
    assert differences.vetoed(Question(first), Question(second)) and not differences.vetoed(
        Question(first), Question(first)
    )


def test_other_words_of_one_letter_are_other_words() -> None:
    for first, second in (("payer", "payee"), ("interviewer", "interviewee"), ("gambia", "zambi")):
        assert not alike(first, second)
    assert differences.other_names(Question("Fly to Iran"), Question("Fly to Iraq")) == 2
