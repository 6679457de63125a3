"""What is in a workload: count, lengths, labels, duplicates, halves, rows that will cause trouble, and which
gates it can decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pennyweight.budget import Budget
from pennyweight.errors import WorkloadError
from pennyweight.measure.proof.power import USUAL_FLIPS, decidable, labelled_needed, undecidable
from pennyweight.workload import Request, Workload

MAX_NAMED = 5
MARGINS = (0.01, 0.02, 0.05, 0.10)
Lengths = dict[str, int]


@dataclass(frozen=True)
class WorkloadReport:
    """`unit` is the unit of the lengths; `odd` are sentences, each about some rows."""

    name: str
    requests: int
    sessions: int
    labelled: int
    unit: str
    prompt: Lengths
    answer: Lengths
    halves: Lengths = field(default_factory=dict)
    arrivals: bool = False
    kinds: dict[str, int] = field(default_factory=dict)
    odd: tuple[str, ...] = ()
    decides: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        rows = [
            f"{self.name}: {self.requests} requests, {self.sessions} sessions, {self.labelled} labelled"
            + (", with recorded times" if self.arrivals else ""),
            f"Prompts    {_spread(self.prompt)} {self.unit}",
            f"Answers    up to {_spread(self.answer)} tokens",
        ]
        if self.kinds:
            rows.append("Kinds      " + ", ".join(f"{name} {count}" for name, count in self.kinds.items()))
        if self.halves:
            rows.append("Halves     " + ", ".join(f"{name} {count}" for name, count in self.halves.items()))
        rows += [f"Odd        {sentence}" for sentence in self.odd]
        return rows + [f"Decides    {sentence}" for sentence in self.decides]


def describe(
    workload: Workload, *, seed: int = 0, length_of: Callable[[Request], int] | None = None, context: int = 0
) -> WorkloadReport:
    """`length_of` counts a prompt's tokens; without it words are counted. A `context` of 0 means unknown."""
    requests = workload.requests
    count = length_of or _words
    lengths = {request.id: request.shape.tokens if request.shape else count(request) for request in requests}
    try:
        halves = workload.split(seed)
    except WorkloadError:
        halves = None
    return WorkloadReport(
        workload.name,
        len(requests),
        len({request.session for request in requests}),
        len(workload.labelled),
        "tokens" if length_of or any(request.shape for request in requests) else "words",
        _summary(list(lengths.values())),
        _summary([request.max_tokens for request in requests]),
        {"tuning": len(halves[0].requests), "held-out": len(halves[1].requests)} if halves else {},
        all(request.arrival is not None for request in requests),
        dict(Counter(request.kind for request in requests if request.kind).most_common()),
        _odd(requests, lengths, context),
        _decides(halves),
    )


def _odd(requests: Sequence[Request], lengths: dict[str, int], context: int) -> tuple[str, ...]:
    found = []
    long = [r for r in requests if context and lengths[r.id] + r.max_tokens > context]
    if long:
        found.append(f"{_named(long)} do not fit the model's context of {context} tokens.")
    empty = [r for r in requests if not lengths[r.id]]
    if empty:
        found.append(f"{_named(empty)} have empty prompts.")
    tiny = [r for r in requests if r.max_tokens < 2]
    if tiny:
        found.append(f"{_named(tiny)} allow an answer of one token: no time per output token can be measured.")
    texts = Counter(_text(r) for r in requests)
    repeated = [r for r in requests if _text(r) and texts[_text(r)] > 1]
    if repeated:
        distinct = len({_text(r) for r in repeated})
        found.append(f"{_named(repeated)} repeat {distinct} prompts: equal ones count as one session.")
    ids = [name for name, count in Counter(r.id for r in requests).items() if count > 1]
    if ids:
        found.append(f"The id {ids[0]!r} stands {sum(r.id == ids[0] for r in requests)} times.")
    half = [r for r in requests if (r.reference is None) != (r.scorer is None)]
    if half:
        found.append(f"{_named(half)} have a reference or a scorer but not both, and are not scored.")
    return tuple(found)


def _decides(halves: tuple[Workload, Workload] | None) -> tuple[str, ...]:
    if halves is None:
        return ("Nothing: one session only, so that nothing can be held out.",)
    held_out = halves[1]
    found = []
    for one in decidable(Budget(), held_out.requests):
        if one.possible:
            found.append(f"{one.option} {one.bound:g}: yes, it takes {one.fewest} independent held-out requests.")
    if hopeless := undecidable(Budget(), held_out.requests):
        found.append(f"Not: {hopeless}")
    labelled = len(held_out.labelled)
    if not labelled:
        found.append("--max-degradation: no, no held-out request is labelled.")
        return tuple(found)
    least = next((margin for margin in MARGINS if labelled_needed(margin) <= labelled), None)
    can = f"margins from {least:.0%} on" if least else f"no margin up to {MARGINS[-1]:.0%}"
    found.append(
        f"--max-degradation: {labelled} labelled held-out requests decide {can} if {USUAL_FLIPS:.0%} of answers "
        f"flip; 1% needs about {labelled_needed(0.01):,}."
    )
    return tuple(found)


def _named(requests: Sequence[Request]) -> str:
    names = ", ".join(repr(request.id) for request in requests[:MAX_NAMED])
    more = f" and {len(requests) - MAX_NAMED} more" if len(requests) > MAX_NAMED else ""
    return f"{names}{more}"


def _text(request: Request) -> str:
    return "\n".join(message["content"] for message in request.messages) or request.prompt


def _words(request: Request) -> int:
    return len(request.prompt_tokens) or len(_text(request).split())


def _summary(values: Sequence[int]) -> Lengths:
    ordered = sorted(values)
    return {"least": ordered[0], "median": ordered[len(ordered) // 2], "most": ordered[-1]}


def _spread(summary: Lengths) -> str:
    return f"{summary['least']} to {summary['most']}, median {summary['median']}"
