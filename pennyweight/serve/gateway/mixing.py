"""The stage that serves mixtures: which member answers a request.

A member that a request names is asked; so is the large one where its conversation has escalated, the monitor has raised
its alarm, or the request is of a kind that is not decided (several answers at once). Else the rule decides, before the
small member answers (router) or by what it has answered (cascade), and its answer is sent only then. Where the small
member fails, the large one answers; where the large one fails, that is an error, never a silent small answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from pennyweight.errors import PennyweightError
from pennyweight.mixing.agreement import agree
from pennyweight.mixing.router import question_text
from pennyweight.serve.gateway.ask import Ask, Head, Piece, Stage
from pennyweight.serve.gateway.attempt import CHAT, Attempt
from pennyweight.serve.gateway.mixtures import Mixed
from pennyweight.serve.gateway.pool import Pool
from pennyweight.serve.gateway.refusals import Refused
from pennyweight.serve.gateway.tenant import BATCH

DECIDED = (CHAT, "/v1/completions")  # paths
MODEL_HEADER, DECISION_HEADER = "x-pennyweight-model", "x-pennyweight-decision"
MAX_AUDITS = 64  # at once
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
                    400, f"{ask.pinned!r} is no member of this mixture: use {mixture.small} or {mixture.large}."
                )
            async for piece in self._from(replace(ask, pool=pool), mixed, ask.pinned, "pinned"):
                yield piece
            return
        conversation = conversation_of(ask)
        settled = _settled(ask, mixed, conversation)
        attempt, decision = None, Decision(False, settled)
        if not settled and small is not None:
            attempt, decision = await self._decide(ask, mixed, small)
        try:
            if attempt is not None and decision.kept and not self._shadow:
                async for piece in self._kept(ask, mixed, attempt, decision):
                    yield piece
                return
            if attempt is not None:
                mixed.waste(attempt.tokens)
        finally:
            if attempt is not None:
                await attempt.drop()
        if not decision.kept:
            mixed.escalate(conversation)
        reason = f"shadow, {'kept' if decision.kept else 'escalated'} by {decision.reason}" if self._shadow else ""
        async for piece in self._from(ask, mixed, mixture.large, reason or decision.reason):
            yield piece

    async def _decide(self, ask: Ask, mixed: Mixed, small: Pool) -> tuple[Attempt | None, Decision]:
        """The small member's attempt, if it was asked, and the decision."""
        rule = mixed.mixture.rule
        if rule.router is not None:
            score = await mixed.router_score(question_text(ask.body.get("messages") or (), _prompt(ask.body)))
            most = rule.threshold if rule.ask_up_to is None else rule.ask_up_to
            if score > most:
                return None, Decision(False, "router")
            if rule.cascade is None and self._shadow:
                return None, Decision(True, "router")
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
            LOG.warning(
                "%s gives no answer, and %s is asked: %s", mixed.mixture.small, mixed.mixture.large, attempt.failed
            )
            return attempt, Decision(False, "small member failed")
        if rule.cascade is None:
            return attempt, Decision(True, "router")
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
        """Ask the large member too, after everybody else, and compare."""
        body = {k: v for k, v in ask.body.items() if k not in ("stream", "stream_options", "logprobs", "top_logprobs")}
        again = replace(ask, body=body, raw=json.dumps(body).encode(), priority=BATCH, key="")
        try:
            parts = [piece async for piece in self._inner(again)]
            head, told = parts[0], b"".join(piece for piece in parts if isinstance(piece, bytes))
            if isinstance(head, Head) and not head.refused:
                choice = json.loads(told)["choices"][0]
                other = (choice["message"].get("content") if ask.path == CHAT else choice["text"]) or ""
                mixed.audited(not agree(text, other, mixed.mixture.compared))
        except (PennyweightError, ValueError, KeyError, LookupError) as error:
            LOG.warning("an audit of %s was not answered: %s", mixed.name, error)


def _settled(ask: Ask, mixed: Mixed, conversation: str) -> str:
    """Why the large member answers, whatever the rule says; empty where the rule decides."""
    if mixed.monitor.alarmed:
        return "alarm"
    if conversation and conversation in mixed.escalated:
        return "conversation"
    if ask.sequences > 1 or ask.body.get("echo"):
        return "kind of request"
    return ""


def conversation_of(ask: Ask) -> str:
    """Equal for the turns of one conversation: by the client's x-pennyweight-session, else by the messages up to the
    first answer; empty for what is no conversation."""
    messages = ask.body.get("messages")
    if ask.session:
        text = ask.session
    elif isinstance(messages, list) and messages:
        roles = [one.get("role") if isinstance(one, dict) else None for one in messages]
        first = roles.index("assistant") if "assistant" in roles else len(messages)
        text = json.dumps(messages[:first])
    else:
        return ""
    return hashlib.sha256(json.dumps([ask.tenant.name, text]).encode(errors="surrogatepass")).hexdigest()


def _prompt(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    return prompt if isinstance(prompt, str) else ""


def _signed(piece: Piece, member: str, decision: str) -> Piece:
    if isinstance(piece, Head):
        return piece.with_headers({MODEL_HEADER: member, DECISION_HEADER: decision})
    return piece
