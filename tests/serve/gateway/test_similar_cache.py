"""Answers to similar questions: what is served, what never is, and that a bound is earned before and watched after."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from pennyweight.embedding import Reading
from pennyweight.errors import UsageError
from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece
from pennyweight.serve.gateway.similar_agreement import Agreement
from pennyweight.serve.gateway.similar_bound import SimilarFigures
from pennyweight.serve.gateway.similar_cache import Similar, SimilarAnswers
from pennyweight.serve.gateway.similar_opening import gate_in
from pennyweight.serve.gateway.similar_request import Asked, asked_of
from pennyweight.serve.gateway.similar_sqlite import SQLiteSimilarStore
from pennyweight.serve.gateway.similar_store import Kept, packed, unpacked
from pennyweight.serve.gateway.tenant import ANONYMOUS, BATCH, Tenant
from pennyweight.service import CachePolicy, SimilarPolicy
from pennyweight.similarity.bound import Threshold
from pennyweight.similarity.gate import shipped_gate
from pennyweight.similarity.volatile import Volatile
from tests.serve.gateway.asks import a_pool

CHAT = "/v1/chat/completions"
POOL = a_pool()
GATE = shipped_gate()
WIDTH = 16


def read(texts: Sequence[str]) -> list[Reading]:
    """All questions are near each other, so that the gate's words decide."""
    vector = np.ones(WIDTH) / np.sqrt(WIDTH)
    return [
        Reading(vector, tuple(text.lower().split()), np.tile(vector.astype(np.float32), (len(text.split()), 1)))
        for text in texts
    ]


class Model:
    """Answers with what `says` a question comes to."""

    def __init__(self, says: Callable[[str], str] = lambda text: "An answer.", finish: str = "stop") -> None:
        self.says, self.finish, self.asked = says, finish, list[str]()

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        question = ask.body["messages"][-1]["content"]
        self.asked.append(question)
        text = self.says(question)
        if ask.body.get("stream"):
            yield Head(200, "text/event-stream")
            for word in text.split(" "):
                event = {"choices": [{"delta": {"content": word}, "finish_reason": None}]}
                yield b"data: " + json.dumps(event).encode() + b"\n\n"
            event = {"choices": [{"delta": {}, "finish_reason": self.finish}]}
            yield b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n"
        else:
            yield Head(200, "application/json")
            choice = {"message": {"content": text}, "finish_reason": self.finish}
            yield json.dumps({"choices": [choice]}).encode()
        yield Outcome(1.0, 4, True, finish=self.finish)


def answers_in(file: Path, draw: float = 1.0, earned: bool = True, **policy: Any) -> SimilarAnswers:
    store = SQLiteSimilarStore(file, 3600.0)
    made = SimilarAnswers(
        SimilarPolicy(**{"limit": 0.05, **policy}),
        store,
        GATE,
        read,
        SimilarFigures(CollectorRegistry()),
        embedding="e",
    )
    if earned:
        made.bound.threshold = Threshold(0.6, 100, 0, 0.04)
    made.bound.first_judged = 0
    return made


def an_ask(text: str = "How do I lock my card?", tenant: Tenant = ANONYMOUS, cache: str = "", **body: Any) -> Ask:
    asked = {"messages": [{"role": "user", "content": text}], "temperature": 0, **body}
    return replace(Ask.of(CHAT, asked, b"{}", tenant, POOL), cache=cache)


def told(answers: SimilarAnswers, model: Model, *asks: Ask, draw: float = 1.0) -> list[tuple[Head, list[bytes]]]:
    async def run() -> list[tuple[Head, list[bytes]]]:
        stage, found = Similar(model, answers, lambda: draw), []
        for ask in asks:
            pieces = [piece async for piece in stage(ask)]
            assert isinstance(pieces[0], Head) and isinstance(pieces[-1], Outcome)
            found.append((pieces[0], [piece for piece in pieces if isinstance(piece, bytes)]))
            await asyncio.gather(*stage.judging)
            answers.store.flush()  # type: ignore[attr-defined]
        return found

    return asyncio.run(run())


def served(answers: SimilarAnswers, *asks: Ask) -> bool:
    """Is the last of them answered from the cache?"""
    return told(answers, Model(), *asks)[-1][0].headers.get("x-pennyweight-cache") == "similar"


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_question_in_other_words_is_answered_from_the_cache(tmp_path: Path, stream: bool) -> None:
    answers, model = answers_in(tmp_path / "c"), Model()
    asks = [an_ask(text, stream=stream) for text in ("How do I lock my card?", "how do i lock my card please")]
    (_, first), (head, second) = told(answers, model, *asks)
    assert model.asked == ["How do I lock my card?"] and b"".join(first) == b"".join(second)
    assert head.headers["x-pennyweight-cache"] == "similar" and len(second) == (4 if stream else 1)
    assert len(head.headers["x-pennyweight-answer"]) == 32 and head.headers["age"] == "0"
    assert head.content_type == ("text/event-stream" if stream else "application/json")


@pytest.mark.parametrize(
    "trap", ["How do I unlock my card?", "How do I lock my 2 cards?", "How do I not lock my card?"]
)
def test_traps_are_asked(tmp_path: Path, trap: str) -> None:
    assert not served(answers_in(tmp_path / "c"), an_ask(), an_ask(trap))


def test_nothing_is_served_before_it_is_earned_or_in_shadow(tmp_path: Path) -> None:
    assert not served(answers_in(tmp_path / "a", earned=False), an_ask(), an_ask("how do i lock my card"))
    assert not served(answers_in(tmp_path / "b", shadow=True), an_ask(), an_ask("how do i lock my card"))
    assert served(answers_in(tmp_path / "c"), an_ask(), an_ask("how do i lock my card"))


OTHER: dict[str, Any] = {
    "tenant": Tenant("another", "0" * 64),
    "model": "another",
    "max_tokens": 9,
    "stop": ["x"],
    "user": "another",
    "stream": True,
    "top_p": 0.5,
    "presence_penalty": 1.0,
    "logit_bias": {"5": 1},
    "metadata": {"a": "b"},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "none",
    "response_format": {"type": "json_object"},
    "chat_template_kwargs": {"enable_thinking": False},
    "reasoning_effort": "low",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How do I lock my card?"}],
}


@pytest.mark.parametrize("field", OTHER)
def test_no_answer_crosses_what_is_not_the_last_message(tmp_path: Path, field: str) -> None:
    answers = answers_in(tmp_path / "c")
    other = an_ask(**{field: OTHER[field]})
    assert not served(answers, an_ask(), other) and served(answers, other, other)


fields = st.dictionaries(
    st.sampled_from(["user", "max_tokens", "stop", "top_p", "metadata", "tools", "priority", "unknown", "n2"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=2)),
    max_size=3,
)


@given(fields, fields, st.lists(st.text(max_size=5), max_size=2), st.lists(st.text(max_size=5), max_size=2))
def test_partitions_are_equal_only_where_all_else_is(a: Any, b: Any, before: list[str], earlier: list[str]) -> None:
    def partition(more: Any, turns: list[str]) -> str | None:
        messages = [{"role": "user", "content": text} for text in (*turns, "And how?")]
        found = asked_of(an_ask(**{**more, "messages": messages}), Volatile(), "e")
        return None if found is None else found.partition

    one, other = partition(a, before), partition(b, earlier)
    if one is not None and one == other:
        given = [{name: value for name, value in body.items() if value is not None} for body in (a, b)]
        assert json.dumps(given[0], sort_keys=True) == json.dumps(given[1], sort_keys=True) and before == earlier


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.7},
        {"temperature": None},
        {"seed": 7},
        {"n": 2},
        {"logprobs": True},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "tool", "content": "7"}, {"role": "user", "content": "And now what?"}]},
        {"messages": "no list"},
        {"messages": []},
    ],
)
def test_what_a_similar_answer_does_not_fit_is_always_asked(change: dict[str, Any]) -> None:
    assert asked_of(an_ask(**change), Volatile(), "e") is None
    assert asked_of(an_ask("What is my balance?"), Volatile(), "e") is None
    assert asked_of(an_ask("Is the flash sale on?"), Volatile(["flash sale"]), "e") is None
    assert asked_of(an_ask(), Volatile(), "e") is not None


def test_a_request_may_refuse(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c")
    assert not served(answers, an_ask(), an_ask("how do i lock my card", cache="no-similar"))


@pytest.mark.parametrize("finish", ["length", "tool_calls", ""])
def test_an_answer_that_is_not_whole_is_not_kept(tmp_path: Path, finish: str) -> None:
    answers = answers_in(tmp_path / "c")
    told(answers, Model(finish=finish), an_ask())
    told(answers, Model(lambda _: " "), an_ask("how do i lock my card"))
    assert answers.store.count() == 0


def test_a_hit_is_not_kept_again(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c")
    told(answers, Model(), an_ask(), an_ask("how do i lock my card"), an_ask("how do i lock my card please"))
    assert answers.store.count() == 1


def test_a_bound_is_earned_by_answers_that_agree(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c", earned=False, limit=0.2)
    asks = [an_ask(f"how do I lock my card{'?' * n}") for n in range(30)]
    heads = told(answers, Model(), *asks)
    shown = [head.headers.get("x-pennyweight-cache") for head, _ in heads]
    first = shown.index("similar")
    assert 10 < first < 25 and None not in shown[first:]
    state = answers.bound.state()
    assert state["serving"] and state["bound"] <= 0.2 and state["labels"] == first - 1
    again = answers_in(tmp_path / "c", earned=False, limit=0.2)
    assert again.bound.threshold == answers.bound.threshold, "a restart loses nothing"
    assert served(again, an_ask("how do I lock my card"))
    other = answers_in(tmp_path / "c", earned=False, limit=0.1)
    assert other.bound.threshold is None, "what was earned for 20% says nothing of 10%"


def test_an_answer_that_judges_says_which_one(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c", earned=False, shadow=True)
    (first, _), (second, _) = told(answers, Model(), an_ask(), an_ask("how do i lock my card please"))
    kept = answers.store.find(second.headers["x-pennyweight-judged-answer"])
    assert kept is not None and kept.text == "An answer." and float(second.headers["x-pennyweight-score"]) >= 0.5
    assert "x-pennyweight-judged-answer" not in first.headers


def test_answers_that_differ_earn_nothing(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c", earned=False, limit=0.2)
    numbers = iter(range(1000))
    told(
        answers,
        Model(lambda _: f"answer {next(numbers)}"),
        *[an_ask(f"how do I lock my card{'?' * n}") for n in range(60)],
    )
    assert answers.bound.threshold is None and answers.bound.state()["labels"] > 40


def test_the_monitor_ends_it_when_answers_change(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c", limit=0.05, explored=0.5)
    told(answers, Model(), an_ask())
    changed = Model(lambda _: "Another answer.")
    count = 0
    while answers.bound.threshold is not None and count < 100:
        told(answers, changed, an_ask(f"how do I lock my card{'!' * count}"), draw=0.0)
        count += 1
        changed = Model(f"Another answer {count}.".__add__)
    assert count < 40 and answers.bound.alarms == 1
    assert not served(answers, an_ask("how do I lock my card please"))


def test_what_is_forgotten_is_served_no_more(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c")
    heads = told(answers, Model(), an_ask(), an_ask("how do i lock my card"))
    other = SQLiteSimilarStore(tmp_path / "c", 3600.0)  # as `pw cache forget` does, beside the running gateway
    assert other.forget(heads[1][0].headers["x-pennyweight-answer"]) and not other.forget("unknown")
    assert not served(answers, an_ask("how do i lock my card please"))


class Opinion(Model):
    """Says the same word whenever it is asked whether two questions have one answer."""

    def __init__(self, word: str, fails: bool = False) -> None:
        super().__init__(lambda text: word if "one and the same reply" in text else "An answer.")
        self.fails = fails

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        asks_opinion = "one and the same reply" in ask.body["messages"][-1]["content"]
        if asks_opinion and self.fails:
            raise OSError("gone")
        if asks_opinion:
            assert ask.body["max_tokens"] == 1 and ask.cache == "no" and not ask.body.get("tools")
        async for piece in super().__call__(ask):
            yield piece


UNSURE = ("How do I lock my card?", "what is the way to lock the card")


@pytest.mark.parametrize(
    ("model", "hit"),
    [(Opinion("Yes."), True), (Opinion("No"), False), (Opinion("Maybe"), False), (Opinion("yes", fails=True), False)],
)
def test_where_the_gate_is_not_sure_the_model_decides(tmp_path: Path, model: Opinion, hit: bool) -> None:
    answers = answers_in(tmp_path / "c", verify=True)
    _, (head, _) = told(answers, model, *[an_ask(text) for text in UNSURE])
    assert (head.headers.get("x-pennyweight-cache") == "similar") is hit
    opinions = [text for text in model.asked if "one and the same reply" in text]
    assert len(opinions) == (0 if model.fails else 2), "both orders"
    if hit:
        assert 0.8 <= float(head.headers["x-pennyweight-score"]) < 1


def test_what_was_earned_without_the_verifier_says_nothing_with_it(tmp_path: Path) -> None:
    plain = answers_in(tmp_path / "c")
    plain.bound._keep()
    plain.store.flush()  # type: ignore[attr-defined]
    assert answers_in(tmp_path / "c", earned=False).bound.threshold is not None
    assert answers_in(tmp_path / "c", earned=False, verify=True).bound.threshold is None


def test_some_answers_live_shorter(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c", lifetimes={"card": 100.0, "lock now": 1.0})
    ask, later = an_ask(), an_ask("how do i lock my card please")
    assert served(answers, ask, later)
    kept = answers.store.all()[0]  # type: ignore[attr-defined]
    answers.store.put(replace(kept, made=time.time() - 101))
    answers.store.flush()  # type: ignore[attr-defined]
    assert not served(answers, later)
    with pytest.raises(UsageError, match="price:3600"):
        SimilarPolicy(0.1, lifetimes={"price": 0.0})


def test_two_gateways_share_a_store(tmp_path: Path) -> None:
    one, other = answers_in(tmp_path / "c"), answers_in(tmp_path / "c")
    told(one, Model(), an_ask())
    assert served(other, an_ask("how do i lock my card"))


def test_old_answers_are_not_served(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c")
    told(answers, Model(), an_ask())
    answers.store._ttl = answers.index.ttl = 0.0  # type: ignore[attr-defined]
    assert not served(answers, an_ask("how do i lock my card"))


def test_faults_are_misses(tmp_path: Path) -> None:
    answers, model = answers_in(tmp_path / "c"), Model()
    told(answers, model, an_ask())
    for damage in ("reading = X'00112233'", "body = NULL", "body = X'7B'", "text = 'other'", "type = 3"):
        answers = answers_in(tmp_path / damage[:4])
        told(answers, model, an_ask())
        answers.store._writer.execute(f"UPDATE similar_1 SET {damage}")  # type: ignore[attr-defined]
        assert not served(answers_in(tmp_path / damage[:4]), an_ask("how do i lock my card")), damage

    def broken(texts: Sequence[str]) -> list[Reading]:
        raise RuntimeError("onnxruntime gave up")

    answers.read._read = broken
    assert not served(answers, an_ask("how do i lock my card"))
    answers = answers_in(tmp_path / "d")
    asyncio.run(answers.store.close())
    assert not served(answers, an_ask(), an_ask("how do i lock my card"))


def test_a_reading_survives_its_row() -> None:
    reading = read(["how do I"])[0]
    again = unpacked(packed(reading))
    assert again.tokens == reading.tokens and np.allclose(again.vector, reading.vector, atol=1e-3)
    assert np.allclose(again.states, reading.states, atol=1e-2)
    with pytest.raises(ValueError, match="reshape"):
        unpacked(packed(reading)[:-1])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="add --cache FILE"):
        CachePolicy(similar=SimilarPolicy(0.01))
    with pytest.raises(UsageError, match="millions of labels"):
        SimilarPolicy(5e-324)
    with pytest.raises(UsageError, match="explored 1"):
        SimilarPolicy(0.01, explored=1.0)
    with pytest.raises(UsageError, match="--cache-similar 2"):
        SimilarPolicy(2.0)
    with pytest.raises(UsageError, match="watch nothing"):
        SimilarPolicy(0.01, explored=0.0)


def test_the_file_keeps_to_its_size(tmp_path: Path) -> None:
    store = SQLiteSimilarStore(tmp_path / "c", 3600.0, most_bytes=200_000)
    reading = read(["how do I"])[0]
    for number in range(600):
        store.put(Kept(f"{number}", "p", "how do I", reading, "application/json", b"x" * 1000, "x", time.time()))
    store.flush()
    assert store.count() < 456 and store.find("599") is not None and store.find("0") is None
    assert len(store.since("p", 0)[0]) == len(store.all()) <= 200 + 88


class Scoring(Model):
    """Also gives tokens, and the log-probabilities of `likely` texts are high."""

    def __init__(self, likely: Sequence[str], *, refuses: bool = False) -> None:
        super().__init__()
        self.likely, self.refuses = likely, refuses

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        if ask.path == CHAT:
            async for piece in super().__call__(ask):
                yield piece
            return
        assert ask.priority == BATCH and not ask.key
        yield Head(404 if self.refuses else 200, "application/json")
        if ask.path == "/tokenize":
            text = ask.body.get("prompt", "")
            yield json.dumps({"tokens": [len(self.likely)] * 3 if not text else [self.likely.index(text)] * 5}).encode()
        else:
            values = [None, *[-0.1 if ask.body["prompt"][-1] < 2 else -3.0] * (len(ask.body["prompt"]) - 1)]
            yield json.dumps({"choices": [{"logprobs": {"token_logprobs": values}}]}).encode()
        yield Outcome(whole=True)


FRESH, SAME, OTHER_ANSWER = (
    "You lock it in the app, under cards.",
    "In the app, open cards and lock it.",
    "You cannot do it at all, sorry.",
)


@pytest.mark.parametrize("kept, right", [(FRESH.upper(), True), (SAME, True), (OTHER_ANSWER, False), ("No.", False)])
def test_answers_agree_where_the_kept_one_is_about_as_likely(kept: str, right: bool) -> None:
    agreement = Agreement(Scoring([FRESH, SAME, OTHER_ANSWER]))
    assert asyncio.run(agreement.agrees(an_ask(), kept, FRESH)) is right
    refused = Agreement(Scoring([FRESH, SAME, OTHER_ANSWER], refuses=True))
    assert asyncio.run(refused.agrees(an_ask(), kept, FRESH)) is (kept == FRESH.upper())
    form = an_ask(response_format={"type": "json_object"})
    assert asyncio.run(agreement.agrees(form, SAME, FRESH)) is False, "another JSON is another answer"


def test_would_be_hits_are_kept_at_the_same_rate_while_learning_and_while_serving(tmp_path: Path) -> None:
    """Else labels are earned on a cache that is denser than the one that is served from."""
    for earned in (False, True):
        answers = answers_in(tmp_path / str(earned), earned=earned)
        told(answers, Model(), an_ask(), *[an_ask(f"how do I lock my card{'?' * n}") for n in range(20)])
        assert answers.store.count() == 1
        told(answers, Model(), an_ask("how do I lock my card please"), draw=0.0)
        assert answers.store.count() == 2


def test_a_look_waits_for_labels_that_take_long(tmp_path: Path) -> None:
    bound = answers_in(tmp_path / "c", earned=False, limit=0.2).bound
    late = [bound.begin("p", 0.99) for _ in range(3)]
    for _ in range(60):
        bound.take(bound.begin("p", 0.99), False)
    assert bound.threshold is None and bound.state()["labels"] == 0
    for label in late:
        bound.take(label, True)
    assert bound.looks == 1 and bound.threshold is not None and bound.threshold.wrong == 3


@pytest.mark.parametrize("finish", ["length", "tool_calls"])
def test_an_answer_that_is_no_text_makes_the_kept_one_wrong(tmp_path: Path, finish: str) -> None:
    answers = answers_in(tmp_path / "c", earned=False)
    told(answers, Model(), an_ask())
    told(answers, Model(finish=finish), an_ask("how do i lock my card"))
    assert [label.wrong for label in answers.store.labels(answers.bound.epoch)] == [True]


def test_an_alarm_of_one_gateway_ends_the_others(tmp_path: Path) -> None:
    one, other = answers_in(tmp_path / "c", earned=False), answers_in(tmp_path / "c", earned=False)
    for answers in (one, other):
        answers.bound.threshold = Threshold(0.6, 100, 0, 0.04)
    while one.bound.threshold is not None:
        one.bound.take(one.bound.begin("p", 0.99), True)
    one.store.flush()  # type: ignore[attr-defined]
    other.bound._synced = 0.0
    assert not other.bound.serves(0.99, "p") and other.bound.alarms == 1
    other.bound.take(other.bound.begin("p", 0.99), False)
    other.store.flush()  # type: ignore[attr-defined]
    assert answers_in(tmp_path / "c", earned=False).bound.alarms == 1


def test_another_service_earns_anew(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c")
    answers.serve("another model")
    assert answers.bound.threshold is None and not served(answers, an_ask(), an_ask("how do i lock my card"))


def test_a_damaged_state_begins_anew(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c")
    answers.bound._keep()
    answers.store.flush()  # type: ignore[attr-defined]
    answers.store.set_state({**answers.store.state(), "threshold": {"odd": 1}, "about": answers.bound._about})
    answers.store.flush()  # type: ignore[attr-defined]
    assert answers_in(tmp_path / "c", earned=False).bound.threshold is None


def test_equal_requests_at_once_are_one_label(tmp_path: Path) -> None:
    class Shared(Model):
        async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
            async for piece in super().__call__(ask):
                yield piece.with_headers({"x-pennyweight-cache": "shared"}) if isinstance(piece, Head) else piece

    answers = answers_in(tmp_path / "c", earned=False)
    told(answers, Model(), an_ask())
    told(answers, Shared(), *[an_ask("how do i lock my card")] * 5)
    assert answers.bound.state()["labels"] == 0 and answers.store.count() == 1


def test_half_an_emoji_ends_nothing(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c")
    told(answers, Model(lambda _: "an emoji \ud83d"), an_ask("What is an emoji?"), an_ask("What is \ud83d?"))
    assert answers.store.count() == 0 and served(answers, an_ask(), an_ask("how do i lock my card"))


def test_a_slow_embedding_is_a_miss(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c")

    def slow(texts: Sequence[str]) -> list[Reading]:
        time.sleep(0.6)
        return read(texts)

    answers.read._read = slow
    assert not served(answers, an_ask(), an_ask("how do i lock my card"))


def test_labels_keep_what_the_gate_has_seen_and_refit_it(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c", limit=0.3, earned=False, shadow=True)
    numbers = iter(range(1000))
    changing = Model(lambda text: f"answer {next(numbers)}" if "kindly, sir" in text else "An answer.")
    wordings = [f"{'so ' * (n % 3)}how do I lock my card{'?' * (n % 40)}{' kindly, sir' * (n % 2)}" for n in range(260)]
    told(answers, changing, *[an_ask(text) for text in wordings])
    asyncio.run(answers.close())
    words = [sys.executable, "-m", "pennyweight", "cache", "refit", "--file", str(tmp_path / "c"), "--json"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.strip().splitlines()[-1])
    assert found["changed"] and found["after"] < found["before"] and found["labels"] >= 200
    store = SQLiteSimilarStore(tmp_path / "c", 3600.0)
    assert gate_in(store) != GATE and "its own traffic" in gate_in(store).fitted_on
    store.set_gate('{"prior": "damaged"}')
    store.flush()
    assert gate_in(store) == GATE


def test_what_begins_anew_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers_in(tmp_path / "c", earned=False).store.flush()  # type: ignore[attr-defined]
    assert "begin anew" not in caplog.text
    answers_in(tmp_path / "c", earned=False, limit=0.1)
    assert "begin anew" in caplog.text


def test_it_ends_while_questions_are_read(tmp_path: Path) -> None:
    """The store is closed after what reads from it: a connection that is closed under a reader ends the process."""
    answers = answers_in(tmp_path / "c")
    told(answers, Model(), an_ask())

    def slow(texts: Sequence[str]) -> list[Reading]:
        time.sleep(0.05)
        return read(texts)

    answers.read._read = slow

    async def run() -> None:
        looks = [asyncio.create_task(answers.look(Asked(f"how do i lock my card{'?' * n}", "p"))) for n in range(8)]
        await asyncio.sleep(0.08)
        await answers.close()
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        assert answers.read._threads._shutdown and not any(one.is_alive() for one in answers.read._threads._threads)

    asyncio.run(run())


@pytest.mark.parametrize("hidden", ["\u200b", "\U000e0041", "\ufe0f", "\u202e"])
def test_what_nobody_sees_is_always_asked(hidden: str) -> None:
    assert asked_of(an_ask(f"How do I lock my card?{hidden}"), Volatile(), "e") is None


def test_equal_traps_are_labels_each_time_as_they_would_be_hits_each_time(tmp_path: Path) -> None:
    """The cache of equal answers does not keep what judges: else it would hide repeats while labels are earned."""
    answers, keys = answers_in(tmp_path / "c", earned=False), list[str]()

    class Keys(Model):
        async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
            keys.append(ask.key)
            async for piece in super().__call__(ask):
                yield piece

    first, trap = an_ask(), an_ask("how do i lock my card please")
    told(answers, Keys(), *[replace(one, key="k") for one in (first, trap, trap)])
    assert keys == ["k", "", ""] and answers.bound.state()["labels"] == 2


def test_labels_that_a_restart_has_cut_off_count_as_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They took long, and are the likely wrong ones."""
    before = answers_in(tmp_path / "c", earned=False, limit=0.2)
    for _ in range(8):
        before.bound.begin("p", 0.99)
    for _ in range(5):
        before.bound.take(before.bound.begin("p", 0.99), False)
    before.store.flush()  # type: ignore[attr-defined]
    bound = answers_in(tmp_path / "c", earned=False, limit=0.2).bound
    assert bound.state()["unjudged"] == 8 and bound.state()["labels"] == 0
    monkeypatch.setattr("pennyweight.serve.gateway.similar_bound.LONGEST_JUDGED", 0.0)
    assert (bound.state()["labels"], bound.state()["labels_wrong"]) == (13, 8)
    for _ in range(bound.needed - 13):
        bound.take(bound.begin("p", 0.99), False)
    assert bound.looks == 1 and bound.threshold is None


def test_the_first_would_be_hits_of_a_partition_are_judged(tmp_path: Path) -> None:
    """What was earned elsewhere was earned on another cache."""
    answers = answers_in(tmp_path / "c")
    answers.bound.first_judged = 3
    heads = told(answers, Model(), an_ask(), *[an_ask(f"how do I lock my card{'?' * n}") for n in range(5)])
    assert [head.headers.get("x-pennyweight-cache") for head, _ in heads] == [None] * 4 + ["similar"] * 2
    heads = told(answers, Model(), *[an_ask(f"how do I lock my card{'?' * n}", max_tokens=9) for n in range(3)])
    assert [head.headers.get("x-pennyweight-cache") for head, _ in heads] == [None] * 3
    answers.store.flush()  # type: ignore[attr-defined]
    again = answers_in(tmp_path / "c")
    again.bound.first_judged = 3
    assert served(again, an_ask("how do I lock my card"))


def test_one_question_again_and_again_earns_nothing(tmp_path: Path) -> None:
    answers = answers_in(tmp_path / "c", earned=False, limit=0.2)
    told(answers, Model(), an_ask(), *[an_ask("how do I lock my card")] * 40)
    assert answers.bound.looks >= 1 and answers.bound.threshold is None
    other = answers_in(tmp_path / "d", earned=False, limit=0.2)
    told(other, Model(), an_ask(), *[an_ask(f"how do I lock my card{'?' * n}") for n in range(40)])
    assert other.bound.threshold is not None


@pytest.mark.parametrize("written", [{"temperature": 0.0}, {"max_tokens": 8.0}, {"stream": False}, {"stop": None}])
def test_a_value_that_is_written_otherwise_is_the_same_partition(tmp_path: Path, written: dict[str, Any]) -> None:
    """Clients differ in that, and the proof's requests from a user's."""
    answers = answers_in(tmp_path / "c")
    assert served(answers, an_ask(max_tokens=8), an_ask("how do i lock my card", **{"max_tokens": 8, **written}))
