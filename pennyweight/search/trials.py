"""The trials of one search and what is derived from them: corrected predictions, the candidates still in the search,
the fastest of them and the nearest to the budget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from pennyweight.budget import Limit, Outcome, Verdict
from pennyweight.deployment import Deployment
from pennyweight.hardware import Hardware
from pennyweight.measure.proof import proof
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.plan.cost import Load
from pennyweight.search.candidates import Candidate, Space, is_unmodified, predicted
from pennyweight.search.question import Listener, Question
from pennyweight.study import Stage, Study, Trial

SCREEN_SLACK = 1.25  # factor by which a short run may exceed a limit and stay in the search


@dataclass
class Trials:
    """`corrections` holds, by kernels, the measured time over the predicted one."""

    question: Question
    study: Study
    space: Space
    hardware: Hardware
    listener: Listener
    load: Load
    corrections: dict[str, float] = field(default_factory=dict)

    def record(self, trial: Trial) -> Trial:
        self.study.append(trial)
        self.listener.trial(trial)
        return trial

    def find(self, stage: Stage, candidate: Candidate) -> Trial | None:
        """The last trial of this candidate, whatever the path of its artifact."""
        wanted = candidate.deployment()
        for trial in reversed(self.study.trials):
            if trial.stage is stage and replace(trial.deployment, model_path="", model_id="") == wanted:
                return trial
        return None

    # -- predictions --

    def predicted(self, candidate: Candidate) -> Measurement:
        promise = predicted(candidate, self.question.model, self.hardware, self.load, self.corrections)
        price = self.question.budget.price_per_hour
        if price is None:
            return promise
        dollars = price / 3600 / promise["output_throughput"] * 1e6
        quantity = Quantity("dollars_per_million_tokens", dollars, "$", "lower", predicted=True)
        return promise.joined(collect(promise.subject, [quantity]))

    def promise(self, candidate: Candidate) -> float:
        """The predicted score of the objective."""
        return self.question.budget.score(self.predicted(candidate))

    def correct(self, candidate: Candidate, measurement: Measurement) -> None:
        """Learn from a measured run how far the cost model is off for these kernels."""
        tokens = measurement.quantities["output_tokens"]
        requests = max(1, len(tokens.raw))
        prompts = measurement["total_throughput"] * measurement["duration_s"] - tokens.value
        self.load = Load(prompts / requests, tokens.value / requests, self.load.streams)
        uncorrected = predicted(candidate, self.question.model, self.hardware, self.load, {})
        self.corrections[candidate.kernels] = uncorrected["output_throughput"] / measurement["output_throughput"]

    # -- judgement --

    def quality_verdict(self, measurement: Measurement) -> Verdict:
        return proof.judge(self.question.budget, measurement)

    def speed_verdict(self, measurement: Measurement) -> Verdict:
        return self.question.budget.judge_limits(measurement, self.question.budget.speed_limits)

    def score(self, trial: Trial) -> float:
        return self.question.budget.score(trial.measurement) if trial.measurement else float("-inf")

    def survivors(self, stage: Stage) -> list[Trial]:
        """Trials of this stage that ran and did not clearly break a limit."""
        return [t for t in self.study.of_stage(stage) if t.measurement and self._holds(t)]

    def best_first(self, stage: Stage) -> list[Trial]:
        return sorted(self.survivors(stage), key=self.score, reverse=True)

    def _holds(self, trial: Trial) -> bool:
        assert trial.measurement is not None
        screened = self.find(Stage.SCREEN, self.space.groups[trial.deployment.group][0])
        if screened is None or screened.measurement is None:
            return False
        if self.quality_verdict(screened.measurement).outcome is Outcome.REJECT:
            return False
        slack = SCREEN_SLACK if trial.stage is Stage.SCREEN else 1.0
        limits = tuple(Limit(x.quantity, x.bound * slack, x.floor) for x in self.question.budget.speed_limits)
        return self.question.budget.judge_limits(trial.measurement, limits).outcome is Outcome.ACCEPT

    def spread(self) -> float | None:
        """The largest standard deviation of a request's loss that a screened survivor showed, in nats per token."""
        raws = [t.measurement.quantities["added_nats"].raw for t in self.survivors(Stage.SCREEN) if t.measurement]
        return max((float(np.std(raw)) for raw in raws if len(raw) > 1), default=None)

    # -- the ends of a search --

    def fastest_unmodified(self) -> Deployment | None:
        """Of all unmodified candidates that ran, the one with the highest throughput in the screen."""
        runs = [
            (trial.measurement["output_throughput"], trial.deployment)
            for trial in self.study.of_stage(Stage.SCREEN)
            if trial.measurement is not None
            and trial.deployment.group in self.space.groups
            and is_unmodified(trial.deployment.group)
        ]
        if not runs:
            return None
        _, best = max(runs, key=lambda run: run[0])
        tuned = [t for t in self.survivors(Stage.TUNE) if t.deployment.group == best.group]
        return max(tuned, key=self.score).deployment if tuned else best

    def nearest(self) -> Trial | None:
        """The measured trial that misses its limits by the least, counted in shares of the bounds."""
        budget = self.question.budget

        def miss(trial: Trial) -> float:
            total = 0.0
            for limit in (*budget.quality_limits, *budget.speed_limits):
                value = trial.measurement.get(limit.quantity) if trial.measurement else None
                total += max(0.0, -limit.margin(value)) if value is not None else 10.0
            return total

        tried = [t for t in self.study.of_stage(Stage.SCREEN, Stage.PROVE) if t.measurement is not None]
        return min(tried, key=miss, default=None)

    def failures(self) -> tuple[tuple[str, str], ...]:
        """Candidates that could not be measured, and why."""
        failed = [t for t in self.study.trials if t.failure and t.stage is not Stage.SKIP]
        return tuple((f"{trial.stage} {trial.deployment.label}", trial.failure or "") for trial in failed)

    def anything_measured(self) -> bool:
        return any(t.measurement is not None for t in self.study.of_stage(Stage.SCREEN, Stage.TUNE, Stage.PROVE))
