"""The small member's answer in a mixture, held back until it is decided whether it is kept.

It is asked for its log-probabilities, which decide. Where the client did not ask for them, they are taken out again."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pennyweight.errors import PennyweightError
from pennyweight.mixing.agreement import calls_in
from pennyweight.mixing.cascade import TOPS, SmallAnswer, keeps_json, read_logprobs
from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece, Stage
from pennyweight.serve.gateway.pool import Pool
from pennyweight.serve.gateway.relay import DONE, EVENTS

CHAT = "/v1/chat/completions"


def small_ask(ask: Ask, pool: Pool, *, measured: bool) -> Ask:
    """The same question to the small member, `measured` by its log-probabilities."""
    ask = replace(ask, waits=False)  # the large member is there
    if not measured:
        return replace(ask, pool=pool)
    body = dict(ask.body)
    if ask.path == CHAT:
        body["logprobs"] = True
        body["top_logprobs"] = max(TOPS, _number(ask.body.get("top_logprobs")))
    else:
        body["logprobs"] = max(TOPS, _number(ask.body.get("logprobs")))
    return replace(ask, pool=pool, body=body, raw=json.dumps(body).encode())


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


class Attempt:
    """`held` are the pieces that have come, as the client is to get them; `failed` says why there is no answer, if
    there is none."""

    def __init__(self, stage: Stage, ask: Ask, small: Pool, *, measured: bool) -> None:
        self._pieces = stage(small_ask(ask, small, measured=measured))
        self._asked, self._measured = ask.body, measured
        self._chat = ask.path == CHAT
        self._streams = False
        self._rest = b""
        self._logprobs: list[float] = []
        self._margins: list[float] = []
        self.held: list[Piece] = []
        self.text = ""
        self.finish = ""
        self.outcome: Outcome | None = None
        self.failed = ""

    @property
    def tokens(self) -> int:
        return len(self._logprobs)

    @property
    def answer(self) -> SmallAnswer:
        kept = keeps_json(self._asked, self.text)
        return SmallAnswer(self._logprobs, self._margins, cut=self.finish == "length", form_kept=kept)

    async def begin(self) -> None:
        """Until it is known that there is an answer."""
        await self._until(lambda: bool(self.held))

    async def until(self, tokens: int) -> None:
        """Until this many tokens have come, or the answer has ended; 0 means its end."""
        await self._until(lambda: bool(tokens) and self.tokens >= tokens)
        if self.outcome is not None and not self.outcome.whole and not self.failed:
            self.failed = "its answer broke off"

    async def _until(self, enough: Any) -> None:
        try:
            while self.outcome is None and not self.failed and not enough():
                piece = await anext(self._pieces, None)
                if piece is None:
                    break
                self._take(piece)
        except PennyweightError as error:
            self.failed = str(error)

    async def pieces(self) -> AsyncGenerator[Piece]:
        """What was held, and what follows as it comes."""
        async with aclosing(self._pieces):
            while True:
                held, self.held = self.held, []
                for piece in held:
                    yield piece
                if self.outcome is not None:
                    return
                piece_next = await anext(self._pieces, None)
                if piece_next is None:
                    return
                self._take(piece_next)

    async def drop(self) -> None:
        """The answer is not wanted: its engine is told to stop."""
        await self._pieces.aclose()

    # -- what comes --

    def _take(self, piece: Piece) -> None:
        if isinstance(piece, Head):
            self._streams = piece.content_type == EVENTS
            if piece.refused:
                self.failed = f"it answered with HTTP {piece.status}"
            self.held.append(piece)
        elif isinstance(piece, Outcome):
            if self._rest:
                self.held.append(self._rest)
            self.outcome = piece
            self.finish = piece.finish or self.finish
            self.held.append(piece)
        elif self._streams:
            *events, self._rest = (self._rest + piece).split(b"\n\n")
            if events:
                self.held.append(b"".join(self._event(event) + b"\n\n" for event in events))
        else:
            self.held.append(self._whole(piece))

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data: ") or event.startswith(DONE):
            return event
        value = json.loads(event[6:])
        changed = [self._choice(choice, choice.get("delta") or {}) for choice in value.get("choices") or ()]
        return b"data: " + json.dumps(value, ensure_ascii=False).encode() if any(changed) else event

    def _whole(self, body: bytes) -> bytes:
        if self.failed:
            return body
        value = json.loads(body)
        changed = [self._choice(choice, choice.get("message") or {}) for choice in value.get("choices") or ()]
        return json.dumps(value, ensure_ascii=False).encode() if any(changed) else body

    def _choice(self, choice: dict[str, Any], said: Mapping[str, Any]) -> bool:
        """Note what a choice says; True where its log-probabilities were taken out."""
        self.text += ((said.get("content") if self._chat else choice.get("text")) or "") + calls_in(said)
        self.finish = choice.get("finish_reason") or self.finish
        logprobs, margins = read_logprobs(choice.get("logprobs"))
        self._logprobs += logprobs
        self._margins += margins
        if not self._measured or choice.get("logprobs") is None:
            return False
        return self._narrow(choice)

    def _narrow(self, choice: dict[str, Any]) -> bool:
        """As many log-probabilities as the client asked for."""
        asked = self._asked.get("logprobs")
        wanted = self._asked.get("top_logprobs") or 0 if self._chat else asked
        if not asked and (self._chat or asked is None):
            choice["logprobs"] = None
            return True
        if (wanted or 0) >= TOPS:
            return False
        found = choice["logprobs"]
        if self._chat:
            for row in found.get("content") or ():
                row["top_logprobs"] = (row.get("top_logprobs") or [])[:wanted]
        elif found.get("top_logprobs"):
            found["top_logprobs"] = [dict(list((row or {}).items())[:wanted]) for row in found["top_logprobs"]]
        return True
