"""Scoring on a server without `echo`: a grammar forces the text's tokens, one after the other, while the server
reports each one's log-probability before the grammar. Where no grammar can force a token, the log-probabilities of
the whole vocabulary are requested.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from operator import itemgetter

from pennyweight.engines.llamacpp.server import Server
from pennyweight.errors import EngineError
from pennyweight.generation import SCORED_TOPS, Score
from pennyweight.tokenizer import Tokenizer

LEAST = -1e4  # nats


class Scorer:
    """`rows` is the size of the model's vocabulary; `broken` are the tokens that hold only a part of a character;
    `beat` is called after each token, since a score takes minutes."""

    def __init__(
        self, server: Server, tokenizer: Tokenizer, *, rows: int, broken: set[int], beat: Callable[[], None]
    ) -> None:
        self._server, self._rows, self._beat = server, rows, beat
        added = tokenizer.backend.get_added_tokens_decoder().items()
        self._unforced = broken | {number for number, token in added if token.special}
        self._plain = tokenizer.encode("a", add_special_tokens=False)[-1]

    @property
    def alive(self) -> bool:
        return self._server.process.poll() is None

    async def score(self, tokens: list[int], start: int) -> Score:
        found: list[tuple[float, list[tuple[int, float]]]] = []
        while start + len(found) < len(tokens):
            place = start + len(found)
            if not await self._forced(tokens, place, found):
                whole = await self.vocabulary(tokens[:place])
                found.append((whole[tokens[place]], heapq.nlargest(SCORED_TOPS, whole.items(), key=itemgetter(1))))
        own, tops = zip(*found, strict=True)
        return Score(own, tops)

    async def _forced(self, tokens: list[int], place: int, found: list[tuple[float, list[tuple[int, float]]]]) -> bool:
        """Force the text's next tokens. A grammar cannot force a special token or a part of a character."""
        rest = list(itertools.takewhile(lambda token: token not in self._unforced, tokens[place:]))
        if not rest:
            return False
        body = {
            "prompt": tokens[:place],
            "n_predict": len(rest),
            "temperature": 0.0,
            "n_probs": SCORED_TOPS,
            "cache_prompt": True,
            "grammar": "root ::= " + " ".join(f"<[{token}]>" for token in rest),
        }
        before = len(found)
        async for chunk in self._server.stream(body):
            self._beat()
            rows = chunk.get("completion_probabilities") or []
            index = chunk["tokens_predicted"] - 1
            if chunk.get("stop") or not rows:
                break
            if index != len(found) - before or rows[0]["id"] != rest[index]:
                break
            tops = [(top["id"], logprob(top["logprob"])) for top in rows[0]["top_logprobs"]]
            found.append((logprob(rows[0]["logprob"]), tops))
        return len(found) > before

    async def vocabulary(self, before: Sequence[int]) -> dict[int, float]:
        """Log-probability of every token after these. The server reports whole characters only."""
        body = {
            "prompt": list(before),
            "n_predict": 1,
            "temperature": 0.0,
            "n_probs": self._rows,
            "grammar": f"root ::= <[{self._plain}]>",
            "cache_prompt": True,
        }
        async for chunk in self._server.stream(body):
            for row in chunk.get("completion_probabilities") or []:
                return {top["id"]: logprob(top["logprob"]) for top in row["top_logprobs"]}
        raise EngineError("llama-server returned no probabilities")


def logprob(value: float | None) -> float:
    """The server sends minus infinity as null."""
    return max(float(value), LEAST) if value is not None and not math.isnan(value) else LEAST
