"""The stage that answers a question with the answer to a similar one, if that is wrong in few enough cases
(similar_bound.py). It stands behind the cache of equal requests.

A question is read, its nearest ones of the same partition (similar_request.py) go through the gate, and the likeliest
is a would-be hit. It is served from the earned score on; a share of all would-be hits is answered by the model anyway,
and whether both answers agree is the label that the bound is earned and watched by. Whatever fails here is a miss.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
import uuid
from collections import Counter as Counted
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from pennyweight.embedding import Reading
from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece, Stage
from pennyweight.serve.gateway.similar_agreement import Agreement
from pennyweight.serve.gateway.similar_answer import Said, parts_of, said_in
from pennyweight.serve.gateway.similar_bound import FLOOR, SimilarBound, SimilarFigures
from pennyweight.serve.gateway.similar_index import SimilarIndex
from pennyweight.serve.gateway.similar_reader import QuestionReader, Read
from pennyweight.serve.gateway.similar_request import REFUSING, Asked, asked_of, is_encodable
from pennyweight.serve.gateway.similar_store import Kept, Label, SimilarStore
from pennyweight.serve.gateway.similar_verifier import GREY, Verifier
from pennyweight.service import SimilarPolicy
from pennyweight.similarity.closeness import closeness
from pennyweight.similarity.differences import Question
from pennyweight.similarity.gate import Gate, judged
from pennyweight.similarity.volatile import Phrases, Volatile

CANDIDATES, LEAST_COSINE = 3, 0.55  # none of 184 pairs that the gate takes for one question is less near
MAX_KEPT = 1 << 20  # bytes of an answer
MAX_JUDGING = 64  # at once
LONGEST_LOOK = 0.25  # seconds
CLOCK_SECONDS = 60.0  # by which the clocks of two gateways may differ
HEADER = "x-pennyweight-cache"
ANSWER, JUDGED, SCORE = "x-pennyweight-answer", "x-pennyweight-judged-answer", "x-pennyweight-score"
LOG = logging.getLogger("pennyweight.gateway")


@dataclass(frozen=True)
class Found:
    """A would-be hit: the kept answer, the gate's score, the cosine, and what the gate has seen of both questions."""

    kept: Kept
    score: float
    cosine: float
    features: tuple[float, ...] = ()


@dataclass(frozen=True)
class Turn:
    """A request that the model answers: with the would-be hit that is `judged` by that, if one is. Of would-be hits
    only a share `keeps` the fresh answer, whether they are judged or served: the cache that labels are earned on must
    be as dense as the one that is served from."""

    ask: Ask
    asked: Asked
    reading: Reading
    judged: Found | None
    keeps: bool


class SimilarAnswers:
    """What all requests share; `embedding` names the model that the store's questions were read by, `service` what
    answers."""

    def __init__(
        self,
        policy: SimilarPolicy,
        store: SimilarStore,
        gate: Gate,
        read: Read,
        figures: SimilarFigures,
        *,
        embedding: str,
        service: str = "",
        ttl: float = 3600.0,
    ) -> None:
        self.policy, self.store, self.gate, self.figures, self.embedding = policy, store, gate, figures, embedding
        self._about = f"{embedding} {gate.fitted_on} {len(gate.trees)}" + (" verified" if policy.verify else "")
        self._about += f" {policy.compared} {sorted(policy.never)}" if policy.compared or policy.never else ""
        self._floor = GREY[0] if policy.verify else FLOOR
        self._lifetimes = [(Phrases([phrase]), seconds) for phrase, seconds in policy.lifetimes.items()]
        self.index = SimilarIndex(store, ttl)
        self.read = QuestionReader(read)
        self.bound = SimilarBound(policy, store, figures, f"{self._about} {service}")
        self.volatile = Volatile(policy.never)
        self.requests = Counted[str]()  # by what became of them

    def serve(self, service: str) -> None:
        self.bound.serve(f"{self._about} {service}")

    async def look(self, asked: Asked) -> tuple[Reading, Found | None]:
        """The question's reading, and the would-be hit, both beside the event loop."""
        return await self.read(asked.question, lambda reading: self.find(asked, reading))

    def find(self, asked: Asked, reading: Reading) -> Found | None:
        """The likeliest of the nearest questions, if one is a would-be hit."""
        partition = self.index.partition(asked.partition)
        nearest = partition.nearest(reading.vector, CANDIDATES, time.time() - self.index.ttl)
        near = [(place, cosine) for place, cosine in nearest if cosine >= LEAST_COSINE]
        if not near:
            return None
        question = Question(asked.question)
        pairs = [(partition.questions[p], question, closeness(partition.reading(p), reading)) for p, _ in near]
        scores, rows = judged(self.gate, pairs)
        for best in (-scores).argsort():
            place, cosine = near[int(best)]
            if scores[best] < self._floor:
                break
            kept = self.store.find(partition.ids[place])
            if kept is not None and self._is_out_of_date(kept, asked.question):
                continue
            if kept is not None:
                return Found(kept, float(scores[best]), cosine, tuple(rows[best].tolist()))
            partition.drop(partition.ids[place])  # another gateway forgot it, say
        return None

    def _is_out_of_date(self, kept: Kept, question: str) -> bool:
        """By the shortest lifetime that the user gave to either question, or made at a time that is yet to come."""
        if kept.made > time.time() + CLOCK_SECONDS:
            return True
        over = [phrases for phrases, seconds in self._lifetimes if kept.age > seconds]
        return any(phrases(kept.question) or phrases(question) for phrases in over)

    def keep(self, asked: Asked, reading: Reading, content_type: str, body: bytes, text: str) -> None:
        made = Kept(uuid.uuid4().hex, asked.partition, asked.question, reading, content_type, body, text, time.time())
        self.store.put(made)
        self.bound.grown(self.store.count())

    def state(self) -> dict[str, Any]:
        """For `/status` and the page."""
        return {**self.bound.state(), **{name: self.requests[name] for name in ("hit", "judged", "miss")}}

    async def close(self) -> None:
        await asyncio.to_thread(self.read.close)
        await self.store.close()


class Similar:
    def __init__(self, inner: Stage, answers: SimilarAnswers, draw: Callable[[], float] = random.random) -> None:
        self._inner, self._answers, self._draw = inner, answers, draw
        self._verifier = Verifier(inner)
        self._agreement = Agreement(inner, answers.policy.compared)
        self.judging: set[asyncio.Task[None]] = set()

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        answers = self._answers
        asked = None if ask.cache in REFUSING else asked_of(ask, answers.volatile, answers.embedding)
        looked = None if asked is None else await self._looked(asked)
        if asked is None or looked is None:
            async with aclosing(self._inner(ask)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        reading, found = looked
        if found is not None and answers.policy.verify:
            found = await self._verified(ask, asked, found)
        drawn = self._draw() < answers.policy.explored
        if found is not None and not drawn and answers.bound.serves(found.score, asked.partition):
            self._count("hit")
            async for piece in _served(found):
                yield piece
            return
        judges = found is not None and (drawn or answers.bound.learns(asked.partition))
        self._count("judged" if judges else "miss")
        keeps = found is None or drawn
        if judges and not keeps:  # else the cache of equal answers would hide that this hit is wrong each time
            ask = replace(ask, key="")
        turn = Turn(ask, asked, reading, found if judges else None, keeps=keeps)
        async with aclosing(self._answered(turn)) as pieces:
            async for piece in pieces:
                yield piece

    async def _looked(self, asked: Asked) -> tuple[Reading, Found | None] | None:
        try:
            return await asyncio.wait_for(self._answers.look(asked), LONGEST_LOOK)
        except Exception as error:  # onnxruntime has many; what fails or takes long is a miss
            LOG.warning("no similar question was looked for: %s", error or type(error).__name__)
            return None

    async def _verified(self, ask: Ask, asked: Asked, found: Found) -> Found | None:
        score = await self._verifier.score(ask, found.kept.question, asked.question, found.score)
        return replace(found, score=score) if score >= FLOOR else None

    async def _answered(self, turn: Turn) -> AsyncGenerator[Piece]:
        """By the model; its answer says whether the one that would have been served is right, and may be kept."""
        head, parts, size = None, list[bytes](), 0
        async with aclosing(self._inner(turn.ask)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Head):
                    head = piece
                    if turn.judged is not None:
                        piece = replace(head, headers={**head.headers, **_would_be(turn.judged)})
                elif isinstance(piece, bytes) and size <= MAX_KEPT:
                    parts.append(piece)
                    size += len(piece)
                elif isinstance(piece, Outcome) and piece.whole and head is not None and _is_own(head):
                    self._learn(turn, head.content_type, b"".join(parts), size)
                yield piece

    def _learn(self, turn: Turn, content_type: str, body: bytes, size: int) -> None:
        answers = self._answers
        said = said_in(content_type, body) if size <= MAX_KEPT else Said("", "")
        sound = said.whole and is_encodable(said.text)
        if turn.judged is not None:
            label = _begun(answers.bound, turn.asked, turn.judged)
            if sound and len(self.judging) < MAX_JUDGING:
                task = asyncio.create_task(self._judge(turn.ask, turn.judged, said.text, label))
                self.judging.add(task)
                task.add_done_callback(self.judging.discard)
            else:  # a call, a cut answer or none at all is not what was kept
                answers.bound.take(label, True)
        if sound and turn.keeps and not turn.ask.pool.closed:
            answers.keep(turn.asked, turn.reading, content_type, body, said.text)

    async def _judge(self, ask: Ask, found: Found, fresh: str, label: Label) -> None:
        agrees = False
        try:
            agrees = await self._agreement.agrees(ask, found.kept.text, fresh)
        finally:
            self._answers.bound.take(label, not agrees)

    def _count(self, result: str) -> None:
        self._answers.requests[result] += 1
        self._answers.figures.requests.labels(result).inc()


def _begun(bound: SimilarBound, asked: Asked, found: Found) -> Label:
    answer = _short(asked.partition, found.kept.text)
    words = _short(answer, asked.question)
    return bound.begin(asked.partition, found.score, words=words, answer=answer, features=found.features)


def _short(*texts: str) -> str:
    """A hash that names them in rows that are kept for long."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()


def _about(found: Found) -> dict[str, str]:
    return {"x-pennyweight-similarity": f"{found.cosine:.3f}", SCORE: f"{found.score:.6f}"}


def _would_be(found: Found) -> dict[str, str]:
    """Of an answer by the model, beside which another one lay ready and is judged by it."""
    return {**_about(found), JUDGED: found.kept.id}


def _is_own(head: Head) -> bool:
    """One answer that several requests share is one label, and one row."""
    return head.status == 200 and head.headers.get(HEADER) != "shared"


async def _served(found: Found) -> AsyncGenerator[Piece]:
    kept = found.kept
    headers = {HEADER: "similar", **_about(found), ANSWER: kept.id, "age": str(int(kept.age))}
    yield Head(200, kept.content_type, headers)
    for part in parts_of(kept.content_type, kept.body):
        yield part
    yield Outcome(whole=True)
