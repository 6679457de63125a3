"""A draft model for speculative decoding: prune the target, distill the result on the target's answers, and measure the
acceptance length on the held-out half, before and after, and the speed-up."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from pennyweight import codec, techniques
from pennyweight.deployment import Deployment
from pennyweight.errors import UsageError
from pennyweight.evidence import Reference
from pennyweight.measure import compare as comparing
from pennyweight.measure.acceptance import measure_acceptance
from pennyweight.measure.proof.references import references
from pennyweight.measurement import Comparison, Measurement
from pennyweight.model import Model
from pennyweight.search.question import Listener
from pennyweight.serve import catalogue, open_service
from pennyweight.service import Service
from pennyweight.techniques.depth import Depth
from pennyweight.techniques.distill import Distill
from pennyweight.techniques.layout import changeable
from pennyweight.techniques.quantize import Quantize
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import Arrivals, Workload

ENGINE, SCHEME = "openvino", "Q8_0"  # where speculation is measured
RUN_WAVES = 3
LENGTH = 384  # tokens of prompt and continuation to learn from
MIN_REQUESTS = 12


@dataclass(frozen=True)
class DraftRequest:
    """The request: blocks to keep, distillation steps, and `num_draft_tokens`, the draft tokens per step of the
    target."""

    target: Model
    workload: Workload
    layers: int
    steps: int
    num_draft_tokens: int = 4
    streams: tuple[int, ...] = (1, 16)
    rounds: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Draft:
    """The draft, ready for the target's engine, with its acceptance before and after distillation and the ratio of
    throughput with and without it, by streams."""

    model: Model
    before: Measurement
    after: Measurement
    speedups: dict[int, Comparison]

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.model.id,
            "path": str(self.model.path),
            "before": {name: self.before[name] for name in ("acceptance_length", "acceptance_rate")},
            "after": {name: self.after[name] for name in ("acceptance_length", "acceptance_rate")},
            "speedups": {str(streams): codec.plain(c) for streams, c in self.speedups.items()},
        }


def draft(asked: DraftRequest, listener: Listener) -> Draft:
    tuning, held_out = asked.workload.split(asked.seed)
    if len(held_out.requests) < MIN_REQUESTS:
        raise UsageError(f"{len(held_out.requests)} held-out requests are too few to measure on: {MIN_REQUESTS}.")
    shape = changeable(asked.target.config)
    if not 1 <= asked.layers < shape.layers:
        raise UsageError(f"--layers {asked.layers} makes no draft: {asked.target.name} has {shape.layers}.")
    catalogue.check(ENGINE, {"num_speculative_tokens": asked.num_draft_tokens})
    if asked.rounds < 2:
        raise UsageError(f"--rounds {asked.rounds} gives no confidence interval: use 2 or more.")
    tokenizer = Tokenizer(asked.target.path)
    prompts = tuple(tokenizer.prompt_text(request) for request in tuning.requests)
    learning = Distill(
        str(asked.target.path),
        asked.target.id,
        prompts,
        length=LENGTH,
        temperature=0.7,
        steps=asked.steps,
        batch=4,
        mixed_precision=True,
        seed=asked.seed,
    )
    learning.result_kind(asked.target)

    listener.stage("Answers of the target")
    with open_service(_reference(asked.target)) as endpoint:
        made = references(endpoint, held_out.requests, listener.progress)
    listener.stage(f"Pruning to {asked.layers} of {shape.layers} blocks")
    pruned = techniques.apply(Depth(asked.layers, "influence", prompts), asked.target, listener.progress)
    before = _acceptance(pruned, made, asked.num_draft_tokens, listener)
    listener.stage("Distilling on the target's answers")
    learnt = techniques.apply(learning, pruned, listener.progress)
    after = _acceptance(learnt, made, asked.num_draft_tokens, listener)
    listener.stage(f"Converting both to {SCHEME}")
    small, large = (techniques.apply(Quantize(SCHEME), m, listener.progress) for m in (learnt, asked.target))
    return Draft(small, before, after, {s: _speedup(asked, held_out, large, small, s, listener) for s in asked.streams})


def _reference(model: Model) -> Service:
    return Service.of(Deployment("transformers", str(model.path), model.id, model.scheme, {"max_num_seqs": 32}))


def _acceptance(model: Model, made: list[Reference], num_draft_tokens: int, listener: Listener) -> Measurement:
    listener.stage("Measuring the acceptance length")
    with open_service(_reference(model)) as endpoint:
        return measure_acceptance(endpoint, made, num_draft_tokens, listener.progress)


def _speedup(
    asked: DraftRequest, held_out: Workload, target: Model, small: Model, streams: int, listener: Listener
) -> Comparison:
    """Throughput with the draft over without it, from interleaved greedy runs."""
    listener.stage(f"Speed with and without the draft, {streams} streams")
    plain = {"max_num_seqs": streams}
    drafted = {"speculative_method": "draft_model", "num_speculative_tokens": asked.num_draft_tokens}
    speculative = {**plain, **drafted, "draft_model": str(small.path)}
    count = max(MIN_REQUESTS, RUN_WAVES * streams)
    load = held_out.take(count, asked.seed).at_least(count)
    with ExitStack() as kept:
        openers = []
        for settings in (speculative, plain):
            deployment = Deployment(ENGINE, str(target.path), target.id, SCHEME, settings)
            openers.append(comparing.opened_once(lambda d=deployment: open_service(Service.of(d)), kept))  # type: ignore[misc]
        return comparing.compare(
            openers[0],
            openers[1],
            load,
            Arrivals("closed", max_concurrency=streams),
            rounds=asked.rounds,
            seed=asked.seed,
            progress=listener.progress,
        )
