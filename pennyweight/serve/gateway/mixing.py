"""The stage that serves mixtures: which member answers a request.

A member that a request names is asked; so is the large one where its conversation has escalated, the monitor has raised
its alarm, or the request is of a kind that is not decided (several answers at once). Else the rule decides, before the
small member answers (kind, cluster, router) or by what it has answered (cascade), and its answer is sent only then.
Where the small member fails, the large one answers; where the large one fails, that is an error, never a silent small
answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import string
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from pennyweight.errors import PennyweightError
from pennyweight.mixing.agreement import agree, calls_in
from pennyweight.serve.gateway.ask import Ask, Head, Piece, Stage, answer_of
from pennyweight.serve.gateway.attempt import CHAT, Attempt
from pennyweight.serve.gateway.mixtures import Mixed
from pennyweight.serve.gateway.pool import Pool
from pennyweight.serve.gateway.refusals import Refused
from pennyweight.serve.gateway.tenant import BATCH

DECIDED = (CHAT, "/v1/completions")  # paths
MODEL_HEADER, DECISION_HEADER = "x-pennyweight-model", "x-pennyweight-decision"
PLAIN = (string.punctuation + " ").replace("%", "")  # characters of a name that a header shows as they are
MAX_AUDITS = 64  # at once
NOT_AUDITED = ("stream", "stream_options", "logprobs", "top_logprobs", "seed")
LOG = logging.getLogger("pennyweight.gateway")


@dataclass(frozen=True)
class Decision:
    """Whether the small member's answer is kept, and why."""

    kept: bool
    reason: str


class Mixing:
    def __init__(self, inner: Stage, pool_of: Callable[[str], Pool | None], *, shadow: bool) -> None:
        """`pool_of` finds a member's pool. In `shadow`, everything is decided and counted, and the large member
        answers."""
        self._inner, self._pool_of, self._shadow = inner, pool_of, shadow

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        mixed = ask.mixed
        pieces = self._inner(ask) if mixed is None or ask.path not in DECIDED else self._answered(ask, mixed)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def _answered(self, ask: Ask, mixed: Mixed) -> AsyncGenerator[Piece]:
        mixture = mixed.mixture
        small = self._pool_of(mixture.small)
        if ask.pinned:
            pool = self._pool_of(ask.pinned) if ask.pinned in (mixture.small, mixture.large) else None
            if pool is None:
                raise Refused(
                    400, f"{ask.pinned} is no member of this mixture: use {mixture.small} or {mixture.large}."
                )
            async with aclosing(self._from(replace(ask, pool=pool), mixed, ask.pinned, "pinned")) as pieces:
                async for piece in pieces:
                    yield piece
            return
        settled = _settled(ask, mixed)
        attempt, decision = None, Decision(False, settled)
        if not settled:
            attempt, decision = await self._decide(ask, mixed, small)
            if decision.reason in (mixture.rule.before, "cascade"):  # and not because the small member is down
                mixed.ruled[decision.kept] += 1
        try:
            if attempt is not None and decision.kept and not self._shadow:
                async with aclosing(self._kept(ask, mixed, attempt, decision)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            if attempt is not None:
                mixed.waste(attempt.tokens)
        finally:
            if attempt is not None:
                await attempt.drop()
        if not decision.kept and settled in ("", "conversation"):
            mixed.escalate(ask.conversation)
        reason = f"shadow, {'kept' if decision.kept else 'escalated'} by {decision.reason}" if self._shadow else ""
        async with aclosing(self._from(ask, mixed, mixture.large, reason or decision.reason)) as pieces:
            async for piece in pieces:
                yield piece

    async def _decide(self, ask: Ask, mixed: Mixed, small: Pool | None) -> tuple[Attempt | None, Decision]:
        """The small member's attempt, if it was asked, and the decision."""
        rule = mixed.mixture.rule
        if small is None or not small.replicas.ready:  # nobody waits for its restart
            return None, Decision(False, "small member down")
        if rule.before:
            try:
                score = await mixed.question_score(ask.body)
            except Exception as error:  # the embedding's library has many; the large member is there
                LOG.warning("%s could not decide, and %s is asked: %s", mixed.name, mixed.mixture.large, error)
                return None, Decision(False, f"{rule.before} failed")
            most = rule.threshold if rule.ask_up_to is None else rule.ask_up_to
            if not score <= most:
                return None, Decision(False, rule.before)
            if rule.cascade is None and self._shadow:
                return None, Decision(True, rule.before)
        attempt = Attempt(self._inner, ask, small, measured=rule.cascade is not None)
        try:
            if rule.cascade is None:
                await attempt.begin()
            else:
                await attempt.until(rule.first_tokens)
        except BaseException:
            await attempt.drop()
            raise
        if attempt.failed:
            small_name, large_name = mixed.mixture.small, mixed.mixture.large
            LOG.warning("%s gives no answer, and %s is asked: %s", small_name, large_name, attempt.failed)
            return attempt, Decision(False, "small member failed")
        if rule.cascade is None:
            return attempt, Decision(True, rule.before)
        return attempt, Decision(mixed.cascade_score(attempt.answer) <= rule.threshold, "cascade")

    async def _kept(self, ask: Ask, mixed: Mixed, attempt: Attempt, decision: Decision) -> AsyncGenerator[Piece]:
        small = mixed.mixture.small
        mixed.count(small, decision.reason)
        async with aclosing(attempt.pieces()) as pieces:
            async for piece in pieces:
                yield _signed(piece, small, f"kept by {decision.reason}")
        whole = attempt.outcome is not None and attempt.outcome.whole
        if whole and random.random() < mixed.mixture.audited and len(mixed.auditing) < MAX_AUDITS:
            task = asyncio.create_task(self._audit(ask, mixed, attempt.text))
            mixed.auditing.add(task)
            task.add_done_callback(mixed.auditing.discard)

    async def _from(self, ask: Ask, mixed: Mixed, member: str, reason: str) -> AsyncGenerator[Piece]:
        mixed.count(member, reason)
        kept = member == mixed.mixture.small
        said = (
            reason
            if reason == "pinned" or reason.startswith("shadow")
            else f"{'kept' if kept else 'escalated'} by {reason}"
        )
        async with aclosing(self._inner(ask)) as pieces:
            async for piece in pieces:
                yield _signed(piece, member, said)

    async def _audit(self, ask: Ask, mixed: Mixed, text: str) -> None:
        """Ask the large member too, after everybody else, and compare. The certificate is about greedy answers: where
        the client had its answer sampled, the small member gives a greedy one, too."""
        greedy = ask.body.get("temperature") == 0
        try:
            other = await self._greedy_text(ask, self._pool_of(mixed.mixture.large))
            mine = text if greedy else await self._greedy_text(ask, self._pool_of(mixed.mixture.small))
            if mine is not None and other is not None:
                mixed.audited(not agree(mine, other, mixed.mixture.compared))
        except (PennyweightError, ValueError, KeyError, LookupError) as error:
            LOG.warning("an audit of %s was not answered: %s", mixed.name, error)

    async def _greedy_text(self, ask: Ask, pool: Pool | None) -> str | None:
        """A member's greedy answer in the batch class; None where it refuses."""
        if pool is None:
            return None
        body = {name: value for name, value in ask.body.items() if name not in NOT_AUDITED} | {"temperature": 0}
        again = replace(ask, pool=pool, body=body, raw=json.dumps(body).encode(), priority=BATCH, key="")
        head, told = await answer_of(self._inner, again)
        if head.refused:
            return None
        choice = json.loads(told)["choices"][0]
        message = choice.get("message") or {}
        return ((message.get("content") if ask.path == CHAT else choice["text"]) or "") + calls_in(message)


def _settled(ask: Ask, mixed: Mixed) -> str:
    """Why the large member answers, whatever the rule says; empty where the rule decides."""
    if mixed.monitor.alarmed:
        return "alarm"
    if mixed.has_escalated(ask.earlier_conversations):
        return "conversation"
    several = ask.sequences > 1 or ask.body.get("echo")
    odd = not isinstance(ask.body.get("messages", []), list) or not isinstance(ask.body.get("top_logprobs") or 0, int)
    return "form of request" if several or odd else ""


def member_in(header: str) -> str:
    """A member's name in a header, which clients write in UTF-8, in Latin-1, or percent-encoded as we do."""
    with contextlib.suppress(UnicodeError):
        header = header.encode("latin-1").decode("utf-8")
    return unquote(header)


def _in_header(member: str) -> str:
    """In ASCII, as headers are: what is not, is percent-encoded."""
    return quote(member, safe=PLAIN)


def _signed(piece: Piece, member: str, decision: str) -> Piece:
    if isinstance(piece, Head):
        return piece.with_headers({MODEL_HEADER: _in_header(member), DECISION_HEADER: decision})
    return piece
