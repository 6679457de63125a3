"""Mixtures at the gateway: whose answer is sent, why, and what happens where a member fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from pennyweight.mixing.cascade import SIGNS
from pennyweight.mixing.kinds import request_kind
from pennyweight.mixing.text_shape import MEASURES
from pennyweight.mixture import (
    Certificate,
    ClusterLosses,
    KindLosses,
    Limit,
    LossRegression,
    Mixture,
    Rule,
    ThresholdResult,
)
from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece
from pennyweight.serve.gateway.mixing import DECISION_HEADER, MODEL_HEADER, Mixing, _signed, member_in
from pennyweight.serve.gateway.mixtures import Mixed, MixtureFigures
from pennyweight.serve.gateway.refusals import Refused, Unavailable
from pennyweight.serve.gateway.tenant import ANONYMOUS, BATCH
from tests.serve.gateway.asks import a_pool

SMALL, LARGE = a_pool(identity="small", member="small"), a_pool(identity="large", member="large")
CHAT = "/v1/chat/completions"
WIDTH = 2
SYSTEM = {"messages": [{"role": "system", "content": "Prove."}]}


def rule_of(kind: str, first_tokens: int = 0) -> Rule:
    """The cascade keeps where the mean log-probability is at least -1, the router where the first number of the
    embedding is at most 0.5; with both, the router asks up to 0.5."""
    signs, router = len(SIGNS), WIDTH + len(MEASURES)
    by_mean = LossRegression((0.0,) * signs, (1.0,) * signs, (-1.0, *(0.0,) * (signs - 1)), 0.0, ((0.0, 0.0),))
    by_text = LossRegression((0.0,) * router, (1.0,) * router, (1.0, *(0.0,) * (router - 1)), 0.0, ((0.0, 0.0),))
    if kind == "cascade":
        return Rule(1.0, cascade=by_mean, first_tokens=first_tokens)
    if kind == "router":
        return Rule(0.5, router=by_text)
    if kind == "kind":
        return Rule(0.1, kinds=KindLosses((("", 0.05), (request_kind(SYSTEM), 0.9))))
    if kind == "cluster":
        return Rule(0.1, clusters=ClusterLosses(((0.0, 0.0), (1.0, 1.0)), (0.05, 0.9)))
    return Rule(1.0, by_text, by_mean, ask_up_to=0.5)


def mixed_of(rule: Rule, **more: Any) -> Mixed:
    certificate = Certificate(Limit(0.05), 0.05, 100, (ThresholdResult(rule.threshold, 0.5, 0.0, 0.04, True),))
    values = {"departures": 0.2, "audited": 0.0, **more}
    mixture = Mixture("small", "large", ("a", "b"), rule, certificate, **values)

    def embed(texts: Any) -> Any:
        return np.array([[1.0 if "hard" in text else 0.0] * WIDTH for text in texts])

    return Mixed("mix", mixture, MixtureFigures(CollectorRegistry()), embed if rule.embeds else None)


class Engines:
    """Both members: what they answer, how sure of it the small one is, and how they fail."""

    def __init__(self, logprob: float = -0.1, tokens: int = 4, **faults: Exception) -> None:
        self.logprob, self.tokens, self.faults = logprob, tokens, faults
        self.asked: list[tuple[str, Ask]] = []
        self.closed: list[str] = []
        self.says = {"small": "small", "large": "large"}

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        name = ask.pool.identity
        self.asked.append((name, ask))
        if name in self.faults:
            raise self.faults[name]
        try:
            async for piece in self._answer(name, ask):
                yield piece
        except GeneratorExit:
            self.closed.append(name)
            raise

    async def _answer(self, name: str, ask: Ask) -> AsyncGenerator[Piece]:
        wanted = ask.body.get("logprobs")
        rows = [self._row(ask) for _ in range(self.tokens)]
        if ask.body.get("stream"):
            yield Head(200, "text/event-stream")
            for row in rows:
                choice = {"index": 0, "delta": {"content": self.says[name][:1]}, "finish_reason": None}
                choice["logprobs"] = {"content": [row]} if wanted else None
                yield b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}]}
            yield b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n"
        else:
            yield Head(200, "application/json")
            choice = {"message": {"content": self.says[name]}, "finish_reason": "stop"}
            choice["logprobs"] = {"content": rows} if wanted else None
            yield json.dumps({"choices": [choice], "usage": {}}).encode()
        yield Outcome(1.0, self.tokens, True, finish="stop")

    def _row(self, ask: Ask) -> dict[str, Any]:
        tops = [{"logprob": self.logprob - n} for n in range(int(ask.body.get("top_logprobs") or 0))]
        return {"token": "x", "logprob": self.logprob, "top_logprobs": tops}

    @property
    def members(self) -> list[str]:
        return [name for name, _ in self.asked]


def an_ask(mixed: Mixed | None, text: str = "easy", pool: Any = LARGE, **body: Any) -> Ask:
    asked = {"messages": [{"role": "user", "content": text}], **body}
    return replace(Ask.of(CHAT, asked, json.dumps(asked).encode(), ANONYMOUS, pool), mixed=mixed)


def answered(engines: Engines, ask: Ask, *, shadow: bool = False, small: Any = SMALL) -> tuple[Head, bytes, Outcome]:
    async def run() -> list[Piece]:
        stage = Mixing(engines, {"small": small, "large": LARGE}.get, shadow=shadow)
        pieces = [piece async for piece in stage(ask)]
        while ask.mixed is not None and ask.mixed.auditing:
            await asyncio.gather(*ask.mixed.auditing)
        return pieces

    pieces = asyncio.run(run())
    head, outcome = pieces[0], pieces[-1]
    assert isinstance(head, Head) and isinstance(outcome, Outcome)
    return head, b"".join(piece for piece in pieces if isinstance(piece, bytes)), outcome


def signed(head: Head) -> tuple[str, str]:
    return head.headers[MODEL_HEADER], head.headers[DECISION_HEADER]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("first_tokens", [0, 2])
def test_a_sure_answer_is_kept_and_an_unsure_one_asked_again(stream: bool, first_tokens: int) -> None:
    sure, unsure = Engines(-0.1), Engines(-3.0)
    mixed = mixed_of(rule_of("cascade", first_tokens))
    head, body, _ = answered(sure, an_ask(mixed, stream=stream))
    assert signed(head) == ("small", "kept by cascade") and sure.members == ["small"]
    assert b"small" in body or body.count(b'"s"') == 4
    assert b'logprob"' not in body, "the client did not ask for them"
    head, body, _ = answered(unsure, an_ask(mixed, stream=stream))
    assert signed(head) == ("large", "escalated by cascade") and unsure.members == ["small", "large"]
    assert b"small" not in body
    assert mixed.wasted >= (first_tokens or 4)
    assert mixed.state()["kept"] == 1 and mixed.state()["requests"] == 2


@pytest.mark.parametrize("shadow", [False, True])
def test_kinds_and_clusters_decide_before_anything_is_generated(shadow: bool) -> None:
    def asked(kind: str, text: str, system: str = "") -> tuple[str, list[str]]:
        engines, mixed = Engines(), mixed_of(rule_of(kind))
        first = [{"role": "system", "content": system}] if system else []
        ask = an_ask(mixed, messages=[*first, {"role": "user", "content": text}])
        return answered(engines, ask, shadow=shadow)[0].headers[DECISION_HEADER], engines.members

    prefix = "shadow, " if shadow else ""
    kept = ["large"] if shadow else ["small"]
    assert asked("kind", "hard") == (f"{prefix}kept by kind", kept)
    assert asked("kind", "easy", "Prove.") == (f"{prefix}escalated by kind", ["large"])
    assert asked("kind", "easy", "Unknown.") == (f"{prefix}escalated by kind", ["large"])
    assert asked("cluster", "easy") == (f"{prefix}kept by cluster", kept)
    assert asked("cluster", "hard") == (f"{prefix}escalated by cluster", ["large"])


def test_a_rule_that_cannot_decide_leaves_it_to_the_large_member() -> None:
    def broken(texts: Any) -> Any:
        raise RuntimeError("the embedding gave up")

    engines, mixed = Engines(), mixed_of(rule_of("router"))
    mixed.embed = broken
    head, _, _ = answered(engines, an_ask(mixed))
    assert signed(head) == ("large", "escalated by router failed") and engines.members == ["large"]


def test_a_stream_is_the_engines_own_but_for_what_was_not_asked() -> None:
    _, kept, _ = answered(Engines(), an_ask(mixed_of(rule_of("cascade")), stream=True))
    _, plain, _ = answered(Engines(), an_ask(None, pool=SMALL, stream=True))
    told, expected = ([json.loads(e[6:]) for e in body.split(b"\n\n") if e[6:7] == b"{"] for body in (kept, plain))
    assert told == expected and kept.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("asked, rows", [({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 1}, 1)])
def test_log_probabilities_that_were_asked_for_stay(asked: dict[str, Any], rows: int) -> None:
    _, body, _ = answered(Engines(), an_ask(mixed_of(rule_of("cascade")), **asked))
    found = json.loads(body)["choices"][0]["logprobs"]["content"]
    assert len(found) == 4 and all(len(row["top_logprobs"]) == rows for row in found)


def test_the_beginning_decides_and_the_rest_is_not_generated() -> None:
    engines = Engines(-3.0, tokens=50)
    answered(engines, an_ask(mixed_of(rule_of("cascade", 3)), stream=True))
    assert engines.closed == ["small"]


def test_a_router_decides_before_anything_is_generated() -> None:
    engines = Engines()
    mixed = mixed_of(rule_of("router"))
    head, _, _ = answered(engines, an_ask(mixed, "an easy one"))
    assert signed(head) == ("small", "kept by router")
    head, _, _ = answered(engines, an_ask(mixed, "a hard one"))
    assert signed(head) == ("large", "escalated by router") and engines.members == ["small", "large"]
    assert mixed.wasted == 0


def test_with_both_the_small_member_is_asked_in_the_middle_only() -> None:
    engines = Engines(-3.0)
    mixed = mixed_of(rule_of("both"))
    answered(engines, an_ask(mixed, "a hard one"))
    assert engines.members == ["large"]
    head, _, _ = answered(engines, an_ask(mixed, "an easy one"))
    assert engines.members == ["large", "small", "large"] and signed(head) == ("large", "escalated by cascade")


def test_a_request_may_pin_a_member_and_no_other() -> None:
    engines = Engines(-3.0)
    mixed = mixed_of(rule_of("cascade"))
    head, body, _ = answered(engines, replace(an_ask(mixed), pinned="small"))
    assert signed(head) == ("small", "pinned") and b"small" in body
    with pytest.raises(Refused, match="no member of this mixture"):
        answered(engines, replace(an_ask(mixed), pinned="other"))


def test_a_conversation_that_escalated_stays() -> None:
    engines = Engines(-3.0)
    mixed = mixed_of(rule_of("cascade"))
    first = [{"role": "user", "content": "q"}]
    later = [*first, {"role": "assistant", "content": "a"}, {"role": "user", "content": "and?"}]
    answered(engines, an_ask(mixed, messages=first))
    engines.logprob = -0.1
    head, _, _ = answered(engines, an_ask(mixed, messages=later))
    assert signed(head) == ("large", "escalated by conversation")
    head, _, _ = answered(engines, an_ask(mixed, messages=[{"role": "user", "content": "another"}]))
    assert signed(head)[0] == "small"
    ours, theirs = (replace(an_ask(mixed), session="s", tenant=replace(ANONYMOUS, name=name)) for name in ("a", "b"))
    assert ours.conversation != theirs.conversation


def test_examples_in_a_prompt_are_no_conversation_that_escalates_all() -> None:
    engines = Engines(-3.0)
    mixed = mixed_of(rule_of("cascade"))
    shown = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]
    answered(engines, an_ask(mixed, messages=[*shown, {"role": "user", "content": "a"}]))
    engines.logprob = -0.1
    head, _, _ = answered(engines, an_ask(mixed, messages=[*shown, {"role": "user", "content": "b"}]))
    assert signed(head)[0] == "small"
    greeting = [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "c"}]
    assert an_ask(mixed, messages=greeting).earlier_conversations == []


@pytest.mark.parametrize("body", [{"messages": ["hi"]}, {"messages": "hi"}, {"top_logprobs": "5"}, {"messages": None}])
@pytest.mark.parametrize("kind", ["router", "cascade", "both"])
def test_malformed_bodies_reach_an_engine_which_refuses_them(body: dict[str, Any], kind: str) -> None:
    head, _, _ = answered(Engines(), an_ask(mixed_of(rule_of(kind)), **body))
    assert head.status == 200, "the engines here take anything"


def test_a_small_member_that_is_down_is_not_waited_for() -> None:
    engines = Engines()
    down = a_pool(identity="small", member="small", replicas=SimpleNamespace(ready=[]))
    head, _, _ = answered(engines, an_ask(mixed_of(rule_of("cascade"))), small=down)
    assert signed(head) == ("large", "escalated by small member down") and engines.members == ["large"]


def test_what_a_kept_answer_was_cached_under_is_not_found_after_an_alarm_or_an_escalation() -> None:
    mixed = mixed_of(rule_of("cascade"))
    ask = replace(an_ask(mixed), session="s")
    before = ask.identity
    assert replace(ask, pinned="small").identity != before and replace(ask, shadowed=True).identity != before
    mixed.escalate(ask.conversation)
    escalated = ask.identity
    assert escalated != before
    mixed.monitor.alarmed = True
    assert ask.identity not in (before, escalated)


def test_another_mixture_in_its_place_keeps_what_has_escalated(tmp_path: Path) -> None:
    mixed = mixed_of(rule_of("cascade"))
    mixed.file = tmp_path / "m.json"
    mixed.escalate("c")
    later = mixed_of(rule_of("router"))
    later.begin(mixed, "files")
    assert later.has_escalated(["c"]) and mixed.file is None and "files" in later.identity


@pytest.mark.parametrize("kind", ["router", "cascade"])
def test_a_small_member_that_fails_is_replaced_by_the_large_one(kind: str) -> None:
    engines = Engines(small=Unavailable("down"))
    head, body, _ = answered(engines, an_ask(mixed_of(rule_of(kind))))
    assert signed(head) == ("large", "escalated by small member failed") and b"large" in body
    head, _, _ = answered(Engines(), an_ask(mixed_of(rule_of(kind))), small=None)
    assert signed(head)[0] == "large", "a reload has taken it away"


def test_a_large_member_that_fails_is_an_error_and_never_a_small_answer() -> None:
    with pytest.raises(Unavailable):
        answered(Engines(-3.0, large=Unavailable("down")), an_ask(mixed_of(rule_of("cascade"))))


@pytest.mark.parametrize("more", [{"n": 2}, {"echo": True}])
def test_what_cannot_be_decided_goes_to_the_large_one(more: dict[str, Any]) -> None:
    head, _, _ = answered(Engines(), an_ask(mixed_of(rule_of("cascade")), **more))
    assert signed(head) == ("large", "escalated by form of request")


def test_what_was_not_decided_makes_no_conversation_escalate() -> None:
    mixed, engines = mixed_of(rule_of("cascade")), Engines(-0.1)
    first = [{"role": "user", "content": "q"}]
    answered(engines, an_ask(mixed, messages=first, n=2))
    later = [*first, {"role": "assistant", "content": "a"}, {"role": "user", "content": "and?"}]
    head, _, _ = answered(engines, an_ask(mixed, messages=later))
    assert signed(head) == ("small", "kept by cascade")
    state = mixed.state()
    assert (state["requests"], state["decided_by_rule"], state["kept_share"]) == (2, 1, 1.0)


def test_in_shadow_the_share_is_what_would_have_been_kept() -> None:
    mixed = mixed_of(rule_of("cascade"))
    for logprob, name in ((-0.1, "one"), (-3.0, "another")):
        answered(Engines(logprob), an_ask(mixed, messages=[{"role": "user", "content": name}]), shadow=True)
    answered(Engines(), replace(an_ask(mixed), pinned="small"), shadow=True)
    assert mixed.state()["kept_share"] == 0.5 and mixed.state()["decided_by_rule"] == 2


@pytest.mark.parametrize("name", ["großes Modell", "klein (v2)", "小 100%", "a/b:c"])
def test_a_member_is_named_in_a_header_as_it_is_shown_in_one(name: str) -> None:
    shown = _signed(Head(200, "application/json"), name, "pinned").headers["x-pennyweight-model"]
    assert shown.isascii() and member_in(shown) == name
    if "%" not in name:
        assert member_in(name.encode().decode("latin-1")) == name, "as curl sends it"


@pytest.mark.parametrize("kind, asked", [("router", ["large"]), ("cascade", ["small", "large"])])
def test_a_shadow_decides_and_the_large_one_answers(kind: str, asked: list[str]) -> None:
    engines, mixed = Engines(), mixed_of(rule_of(kind))
    head, body, _ = answered(engines, an_ask(mixed), shadow=True)
    assert signed(head) == ("large", f"shadow, kept by {kind}") and b"large" in body and engines.members == asked


def test_audits_are_asked_last_and_the_alarm_sends_everything_to_the_large_one() -> None:
    engines = Engines()
    mixed = mixed_of(rule_of("cascade"), audited=1.0)
    for _ in range(60):
        answered(engines, an_ask(mixed, stream=True, temperature=0))
        if mixed.monitor.alarmed:
            break
    audits = [ask for name, ask in engines.asked if name == "large"]
    assert all(ask.priority == BATCH and not ask.body.get("stream") for ask in audits)
    assert mixed.monitor.alarmed and mixed.monitor.seen < 60 and mixed.state()["alarm"]
    head, _, _ = answered(engines, an_ask(mixed))
    assert signed(head) == ("large", "escalated by alarm")


def test_of_sampled_answers_greedy_ones_are_compared() -> None:
    engines = Engines()
    mixed = mixed_of(rule_of("cascade"), audited=1.0)
    answered(engines, an_ask(mixed, temperature=0.9, seed=3))
    assert engines.members == ["small", "large", "small"]
    audits = [ask.body for _, ask in engines.asked[1:]]
    assert all(body["temperature"] == 0 and "seed" not in body for body in audits)


def test_answers_that_agree_raise_no_alarm() -> None:
    engines = Engines()
    engines.says = {"small": "4", "large": "The answer is 4."}
    mixed = mixed_of(rule_of("cascade"), audited=1.0, compared="number")
    for _ in range(60):
        answered(engines, an_ask(mixed, temperature=0))
    assert mixed.monitor.seen == 60 and not mixed.monitor.alarmed and mixed.monitor.mean_loss == 0


def test_a_monitor_goes_on_after_a_restart_and_begins_anew_for_another_pair(tmp_path: Path) -> None:
    mixed = mixed_of(rule_of("cascade"))
    mixed.file = tmp_path / "deep" / "mixture.json"
    for _ in range(5):
        mixed.audited(True)
    again = Mixed("mix", mixed.mixture, MixtureFigures(CollectorRegistry()), file=mixed.file)
    assert again.monitor == mixed.monitor and again.monitor.seen == 5
    other = replace(mixed.mixture, pair=("a", "c"))
    assert Mixed("mix", other, MixtureFigures(CollectorRegistry()), file=mixed.file).monitor.seen == 0
