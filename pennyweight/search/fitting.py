"""Policies of a mixture, fitted on the tuning half's outcomes, and their scores of the held-out half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError
from pennyweight.mixing.cascade import SmallAnswer, cascade_features, fit_cascade, keeps_json
from pennyweight.mixing.kinds import NEVER, cluster_scores, fit_clusters, fit_kinds, kind_scores, request_kind
from pennyweight.mixing.regression import foreseen_loss, loss_scores
from pennyweight.mixing.router import fit_router, question_text, router_features
from pennyweight.mixture import LossRegression, Rule
from pennyweight.search.outcomes import Outcome
from pennyweight.search.policies import Costs, Labels, Policy
from pennyweight.workload import Request

Floats = NDArray[np.float64]
Embed = Callable[[Sequence[str]], Floats]
RULES = {"kind": 1, "cluster": 1, "router": 1, "cascade": 2, "both": 1}  # policy -> rules that it may try
POLICIES = tuple(RULES)
EMBEDDING = {"cluster", "router", "both"}  # policies that look at a sentence embedding
EARLY = 16  # tokens of the small model's answer, after which an early cascade decides


@dataclass(frozen=True)
class Half:
    """Requests with the small model's outcomes on them."""

    requests: Sequence[Request]
    small: Sequence[Outcome]

    @property
    def texts(self) -> list[str]:
        return [question_text(request.messages, request.prompt) for request in self.requests]

    @property
    def kinds(self) -> list[str]:
        return [request_kind({"messages": request.messages, **request.fields}) for request in self.requests]

    @property
    def answers(self) -> list[SmallAnswer]:
        pairs = zip(self.requests, self.small, strict=True)
        return [
            SmallAnswer(o.logprobs, o.margins, cut=o.finish == "length", form_kept=keeps_json(r.fields, o.text))
            for r, o in pairs
        ]


@dataclass(frozen=True)
class Fitted:
    """A policy and the rule that serves it, whose threshold is still to be certified."""

    policy: Policy
    rule: Rule

    def at(self, threshold: float) -> Rule:
        return replace(self.rule, threshold=threshold)


def rule_scores(rule: Rule, half: Half, embed: Embed | None) -> Floats:
    """What the gateway decides by: (requests,), lower is safer to keep."""
    if rule.kinds is not None:
        return kind_scores(rule.kinds, half.kinds)
    if rule.embeds and embed is None:
        raise UsageError(f"A {rule.before} needs its embedding model: run `pip install pennyweight[similar]`.")
    if rule.clusters is not None and embed is not None:
        return cluster_scores(rule.clusters, embed(half.texts))
    found = np.zeros(len(half.requests))
    if rule.cascade is not None:
        found = loss_scores(rule.cascade, cascade_features(half.answers, rule.first_tokens))
    if rule.router is not None and embed is not None:
        routed = loss_scores(rule.router, router_features(embed(half.texts), half.texts))
        found = routed if rule.cascade is None else np.where(routed > (rule.ask_up_to or 0.0), NEVER, found)
    return found


def fit(
    kinds: Sequence[str], tuning: Half, held_out: Half, labels: Labels, costs: Costs, embed: Embed | None
) -> list[Fitted]:
    """The policies of these names. `labels` are the tuning half's. Raises `UsageError` where both models score alike on
    every request."""
    rules: list[tuple[str, Rule]] = []
    if "kind" in kinds and len(set(tuning.kinds)) > 1:  # of one kind, all are kept or none
        rules.append(("kind", Rule(0.0, kinds=fit_kinds(tuning.kinds, labels.small, labels.large))))
    if "cluster" in kinds and embed is not None:
        rules.append(("cluster", Rule(0.0, clusters=fit_clusters(embed(tuning.texts), labels.small, labels.large))))
    router = cascade = None
    if embed is not None and {"router", "both"} & set(kinds):
        router = fit_router(embed(tuning.texts), tuning.texts, labels.small, labels.large)
    if {"cascade", "both"} & set(kinds):
        cascade = fit_cascade(tuning.answers, labels.small, labels.large)
    if router is not None and "router" in kinds:
        rules.append(("router", Rule(0.0, router=router)))
    if cascade is not None and "cascade" in kinds:
        rules.append(("cascade", Rule(0.0, cascade=cascade)))
        lengths = [len(outcome.logprobs) for outcome in tuning.small]
        if np.mean(lengths) > 2 * EARLY:
            early = fit_cascade(tuning.answers, labels.small, labels.large, first_tokens=EARLY)
            rules.append((f"cascade after {EARLY} tokens", Rule(0.0, cascade=early, first_tokens=EARLY)))
    if router is not None and cascade is not None and "both" in kinds and embed is not None:
        rules.append(
            ("router and cascade", Rule(0.0, router, cascade, ask_up_to=_ask_up_to(router, tuning, costs, embed)))
        )
    return [Fitted(_policy(name, rule, tuning, held_out, embed), rule) for name, rule in rules]


def _ask_up_to(router: LossRegression, tuning: Half, costs: Costs, embed: Embed) -> float:
    """The small model is asked where its answer can be expected to be kept often enough to pay for itself."""
    scores = np.sort(loss_scores(router, router_features(embed(tuning.texts), tuning.texts)))
    paying = scores[foreseen_loss(router, scores) <= 1 - costs.small / costs.large]
    return float(paying[-1]) if len(paying) else float(scores[0])


def _policy(name: str, rule: Rule, tuning: Half, held_out: Half, embed: Embed | None) -> Policy:
    scores = rule_scores(rule, tuning, embed)
    asked = 0.0 if rule.cascade is None else float((scores < NEVER).mean())
    tokens = float(np.mean([max(1, len(outcome.logprobs)) for outcome in tuning.small]))
    part = min(1.0, rule.first_tokens / tokens) if rule.first_tokens else 1.0
    return Policy(name, scores, rule_scores(rule, held_out, embed), asked, part)
