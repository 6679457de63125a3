"""The stage that answers a question with the answer to a similar one, if that is wrong in few enough cases
(similar_bound.py). It stands behind the cache of equal requests.

A question is read, its nearest ones of the same partition (similar_request.py) go through the gate, and the likeliest
is a would-be hit. It is served from the earned score on; a share of all would-be hits is answered by the model anyway,
and whether both answers agree is the label that the bound is earned and watched by. Whatever fails here is a miss.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from pennyweight.embedding import Reading
from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece, Stage
from pennyweight.serve.gateway.similar_agreement import Agreement
from pennyweight.serve.gateway.similar_answer import parts_of, said_in
from pennyweight.serve.gateway.similar_bound import FLOOR, SimilarBound, SimilarFigures
from pennyweight.serve.gateway.similar_index import SimilarIndex
from pennyweight.serve.gateway.similar_reader import QuestionReader, Read
from pennyweight.serve.gateway.similar_request import REFUSING, Asked, asked_of
from pennyweight.serve.gateway.similar_store import Kept, SimilarStore
from pennyweight.service import SimilarPolicy
from pennyweight.similarity.closeness import closeness
from pennyweight.similarity.differences import Question
from pennyweight.similarity.gate import Gate, rows_of
from pennyweight.similarity.volatile import Volatile

CANDIDATES, LEAST_COSINE = 3, 0.4
MAX_KEPT = 1 << 20  # bytes of an answer
MAX_JUDGING = 64  # at once
HEADER = "x-pennyweight-cache"
LOG = logging.getLogger("pennyweight.gateway")


@dataclass(frozen=True)
class Found:
    """A would-be hit: the id of the kept answer, the gate's score and the cosine."""

    id: str
    score: float
    cosine: float


class SimilarAnswers:
    """What all requests share; `embedding` names the model that the store's questions were read by."""

    def __init__(
        self,
        policy: SimilarPolicy,
        store: SimilarStore,
        gate: Gate,
        read: Read,
        figures: SimilarFigures,
        *,
        embedding: str,
    ) -> None:
        self.policy, self.store, self.gate, self.figures, self.embedding = policy, store, gate, figures, embedding
        self.read = QuestionReader(read)
        self.index = SimilarIndex(store)
        self.bound = SimilarBound(policy, store, figures)
        self.volatile = Volatile(policy.never)

    def find(self, asked: Asked, reading: Reading) -> Found | None:
        """The likeliest of the nearest questions, if one is a would-be hit."""
        partition = self.index.partition(asked.partition)
        near = [(p, c) for p, c in partition.nearest(reading.vector, CANDIDATES) if c >= LEAST_COSINE]
        if not near:
            return None
        question = Question(asked.question)
        rows = rows_of([(partition.questions[p], question, closeness(partition.reading(p), reading)) for p, _ in near])
        scores = self.gate.scores(rows)
        best = int(scores.argmax())
        place, cosine = near[best]
        return Found(partition.ids[place], float(scores[best]), cosine) if scores[best] >= FLOOR else None

    async def close(self) -> None:
        self.read.close()
        await self.store.close()

    def keep(self, asked: Asked, reading: Reading, content_type: str, body: bytes, text: str) -> None:
        made = Kept(uuid.uuid4().hex, asked.partition, asked.question, reading, content_type, body, text, time.time())
        self.store.put(made)
        self.bound.grown(self.store.count())


class Similar:
    def __init__(self, inner: Stage, answers: SimilarAnswers, draw: Callable[[], float] = random.random) -> None:
        self._inner, self._answers, self._draw = inner, answers, draw
        self._agreement = Agreement(inner)
        self.judging: set[asyncio.Task[None]] = set()

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        asked = asked_of(ask, self._answers.volatile, self._answers.embedding)
        reading = None if asked is None or ask.cache == "no" else await self._reading(asked)
        if asked is None or reading is None:
            async with aclosing(self._inner(ask)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        found = self._found(asked, reading)
        bound = self._answers.bound
        judged = found is not None and (bound.learning or self._draw() < self._answers.policy.explored)
        if found is not None and not judged and bound.serves(found.score) and ask.cache not in REFUSING:
            kept = self._answers.store.find(found.id)
            if kept is not None:
                self._count("hit")
                async for piece in _served(kept, found):
                    yield piece
                return
            self._answers.index.partition(asked.partition).drop(found.id)
            judged = False
        self._count("judged" if judged else "miss")
        async with aclosing(self._answered(ask, asked, reading, found if judged else None)) as pieces:
            async for piece in pieces:
                yield piece

    async def _reading(self, asked: Asked) -> Reading | None:
        try:
            return await self._answers.read(asked.question)
        except Exception as error:  # as in the reader
            LOG.warning("a question was not read, and is asked: %s", error)
            return None

    def _found(self, asked: Asked, reading: Reading) -> Found | None:
        try:
            return self._answers.find(asked, reading)
        except Exception as error:
            LOG.warning("no similar question was looked for: %s", error)
            return None

    async def _answered(self, ask: Ask, asked: Asked, reading: Reading, judged: Found | None) -> AsyncGenerator[Piece]:
        """By the model; a whole answer is kept, and says whether the one that would have been served is right."""
        head, parts, size = None, list[bytes](), 0
        async with aclosing(self._inner(ask)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Head):
                    head = piece
                elif isinstance(piece, bytes) and size <= MAX_KEPT:
                    parts.append(piece)
                    size += len(piece)
                elif isinstance(piece, Outcome) and piece.whole and head and head.status == 200 and size <= MAX_KEPT:
                    self._learn(ask, asked, reading, head.content_type, b"".join(parts), judged)
                yield piece

    def _learn(
        self, ask: Ask, asked: Asked, reading: Reading, content_type: str, body: bytes, judged: Found | None
    ) -> None:
        said = said_in(content_type, body)
        if not said.whole or ask.pool.closed:
            return
        kept = self._answers.store.find(judged.id) if judged else None
        if judged is not None and kept is not None and len(self.judging) < MAX_JUDGING:
            task = asyncio.create_task(self._judge(ask, judged, kept.text, said.text))
            self.judging.add(task)
            task.add_done_callback(self.judging.discard)
        self._answers.keep(asked, reading, content_type, body, said.text)

    async def _judge(self, ask: Ask, judged: Found, kept: str, fresh: str) -> None:
        self._answers.bound.take(judged.score, not await self._agreement.agrees(ask, kept, fresh))

    def _count(self, result: str) -> None:
        self._answers.figures.requests.labels(result).inc()


async def _served(kept: Kept, found: Found) -> AsyncGenerator[Piece]:
    yield Head(
        200,
        kept.content_type,
        {
            HEADER: "similar",
            "x-pennyweight-similarity": f"{found.cosine:.3f}",
            "x-pennyweight-score": f"{found.score:.3f}",
            "x-pennyweight-answer": kept.id,
            "age": str(int(kept.age)),
        },
    )
    for part in parts_of(kept.content_type, kept.body):
        yield part
    yield Outcome(whole=True)
