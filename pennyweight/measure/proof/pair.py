"""One held-out request on both sides: what travels through the parts of a proof."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

from pennyweight.evidence import Reference
from pennyweight.measure.proof.asking import Answered, Scored
from pennyweight.workload import Request


@dataclass(frozen=True)
class Continued:
    """What the candidate generated after the first `start` tokens of the reference's answer."""

    start: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    """`unit` is the session, or what stands for it: pairs of one unit are not independent. `scored` are the
    reference's tokens under the candidate; None where the endpoint does not score. `samples` are the candidate's
    sampled answers, for requests that ask for sampling."""

    request: Request
    unit: str
    reference: Reference
    answered: Answered
    scored: Scored | None = None
    continued: tuple[Continued, ...] = ()
    right: bool | None = None
    samples: tuple[tuple[int, ...], ...] = ()

    @property
    def reference_finish(self) -> str:
        """Older releases kept no finish_reason: there the length says it."""
        cut = len(self.reference.spelled or self.reference.answer) >= self.request.max_tokens
        return self.reference.finish or ("length" if cut else "stop")

    @property
    def tokens(self) -> int:
        """The reference's scored tokens, the end token included, in the baseline's vocabulary."""
        return len(self.reference.logprobs)

    @cached_property
    def spans(self) -> list[slice]:
        """The candidate's tokens that each of the baseline's became, where its vocabulary was trimmed."""
        sizes = self.reference.spelled or (1,) * self.tokens
        ends = list(itertools.accumulate(sizes))
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def candidate_logprobs(self) -> tuple[float, ...]:
        """Of the reference's tokens under the candidate, one for each of the baseline's tokens."""
        assert self.scored is not None
        return tuple(sum(self.scored.logprobs[span]) for span in self.spans)

    @cached_property
    def agreed(self) -> tuple[bool, ...]:
        """Is the reference's token the candidate's own first choice? A token that became several is if all are."""
        assert self.scored is not None
        wanted = self.reference.scored_tokens
        first = [tops[0][0] == token for tops, token in zip(self.scored.tops, wanted, strict=True)]
        return tuple(all(first[span]) for span in self.spans)
