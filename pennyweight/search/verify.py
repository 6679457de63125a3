"""Check that a deployment directory still meets the limits it was accepted with: checksums, then every gate again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pennyweight import codec, formats
from pennyweight.budget import Budget, Outcome, Verdict
from pennyweight.checkpoint import open_model, read_artifact
from pennyweight.embedding import SentenceEmbedding
from pennyweight.errors import GateFailed, StorageError
from pennyweight.evidence import Evidence
from pennyweight.hardware import detect
from pennyweight.measure.client import Sampling
from pennyweight.measure.proof import proof
from pennyweight.measure.proof.allowance import Allowance
from pennyweight.measure.repeated import PROOF_RUNS, combined
from pennyweight.measure.replay import Progress, no_progress
from pennyweight.measure.speed import LATE_RETRIES, in_other_tokens, measure_speed
from pennyweight.measurement import Measurement
from pennyweight.model import LINEAGE_FILE
from pennyweight.search.loop import FULL_WAVES
from pennyweight.search.similar_bench import ServiceSimilarBench, SimilarBench
from pennyweight.search.similar_search import HitBound, bound_of, judge_parts, policy_of, refusal
from pennyweight.serve import Endpoint, open_service
from pennyweight.service import Service, SimilarPolicy
from pennyweight.workload import Arrivals, Workload

STATED = ("added_nats", "degradation")  # limits that every release's evidence judges where the budget has them


@dataclass(frozen=True)
class Verification:
    """The results of the gates now. `skipped` names those that only hold on the machine of the evidence.
    `similar` are the hits among the held-out requests, where similar answers are served."""

    verdict: Verdict
    measurement: Measurement
    skipped: tuple[str, ...]
    similar: HitBound | None = None


def verify(directory: Path, stage: Callable[[str], None] = print, progress: Progress = no_progress) -> Verification:
    """Raise `GateFailed` with the reason if anything that was accepted no longer holds."""
    evidence = read_accepted(directory)
    service = formats.read_service(directory)
    deployment, accepted = service.only, evidence.chosen
    assert accepted is not None
    if deployment is None:
        raise GateFailed(f"{directory} serves several members, and one was accepted: restore it, or optimise again.")
    for name in ("engine", "model_id", "scheme", "settings", "recipe"):
        if getattr(deployment, name) != getattr(accepted, name):
            raise GateFailed(f"{name} in deployment.json is not what was accepted: restore it, or optimise again.")
    _refuse_edited(evidence)
    _refuse_other_policy(evidence, service)
    if service.cache.similar.limit:
        if not Path(service.cache.place).exists():
            place = service.cache.place
            raise GateFailed(f"{place}, the file of similar answers, is gone: restore it, or optimise again.")
        SentenceEmbedding()  # raises before anything is spent where it is not installed
    stage("Checksums")
    check_artifact(Path(deployment.model_path), deployment.model_id)
    here = detect()
    same_machine = (evidence.hardware.cpu, evidence.hardware.cores) == (here.cpu, here.cores)
    stage(f"Gates of {deployment.short_label}")
    with open_service(Service.of(deployment)) as endpoint:
        result = _gates(evidence, endpoint, with_speed=same_machine, progress=progress)
    if result.verdict.outcome is not Outcome.ACCEPT:
        raise GateFailed(f"The gates no longer hold: {result.verdict.reason}.")
    if evidence.similar is not None and evidence.similar.served:
        stage("Similar answers: the held-out half")
        bench = ServiceSimilarBench(directory, progress, evidence.streams)
        result = replace(result, similar=prove_similar(evidence, service, bench))
    return result


def _refuse_other_policy(evidence: Evidence, service: Service) -> None:
    """What is served from the cache is what was proven: nothing, or under this very policy."""
    found = evidence.similar
    proven = found.policy if found is not None and found.served else SimilarPolicy()
    asked = float(evidence.question.get("similar", 0.0))
    if found is not None and proven.limit and proven != policy_of(asked, proven.compared):
        raise GateFailed(
            "The policy of similar answers in evidence.json is not what was asked for: restore it, or optimise again."
        )
    if found is not None and found.served and found.requests != len(evidence.held_out):
        raise GateFailed("evidence.json lacks held-out requests: restore it, or optimise again.")
    if service.cache.similar != proven:
        raise GateFailed(
            "The policy of similar answers in service.json is not what was proven: restore it, or optimise again."
        )


def prove_similar(evidence: Evidence, service: Service, bench: SimilarBench) -> HitBound:
    """The held-out half again, on a copy of the answers that are served now."""
    assert evidence.similar is not None
    policy = evidence.similar.policy
    workload = Workload(f"{evidence.workload_name}/held-out", evidence.held_out)
    served = bench.serve(service, workload)
    error = 1 - policy.confidence
    bound = bound_of(served, error)
    references = {reference.request_id: reference for reference in evidence.references}
    refused = refusal(bound, judge_parts(served, references, evidence.budget), policy, error)
    if refused:
        raise GateFailed(f"Similar answers no longer hold: {refused}.")
    return replace(bound, limit=policy.limit)


def _refuse_edited(evidence: Evidence) -> None:
    """The gates are those of the question, and every held-out request has its reference: else a file that was edited,
    or cut, would lower what is checked."""
    asked = codec.value_of(Budget, evidence.question.get("budget", {}), "the question in evidence.json")
    if asked != evidence.budget:
        raise GateFailed("The budget in evidence.json is not the question's: restore the file, or optimise again.")
    judged = {verdict.limit for verdict in evidence.limits.limits}
    left_out = evidence.quality.conditions.get("left_out", {}) if evidence.quality else {}
    asked_for = {*evidence.budget.quality_limits, *evidence.budget.speed_limits}
    # Limits of the other parts came with a later release: an older file lacks them.
    demanded = {limit for limit in asked_for if limit in evidence.budget.speed_limits or limit.quantity in STATED}
    allowed = {*asked_for, *evidence.budget.form_limits}
    differing = {limit.quantity for limit in (demanded - judged) | (judged - allowed) if limit.quantity not in left_out}
    if differing:
        names = ", ".join(sorted(differing))
        raise GateFailed(
            f"The limits and the verdicts in evidence.json differ in {names}: restore the file, or optimise again."
        )
    lacking = {request.id for request in evidence.held_out} - {one.request_id for one in evidence.references}
    if lacking or not evidence.held_out:
        raise GateFailed(
            f"evidence.json lacks the references of {len(lacking)} held-out requests: restore it, or optimise again."
        )


def read_accepted(directory: Path) -> Evidence:
    """The evidence of an accepted deployment."""
    file = directory / formats.EVIDENCE_FILE
    try:
        evidence: Evidence = formats.read("evidence", file)
    except StorageError as error:
        if not file.exists():
            raise
        raise GateFailed(str(error)) from None
    if evidence.chosen is None:
        raise GateFailed(f"{file} holds no accepted deployment: its search ended {evidence.outcome}.")
    return evidence


def _gates(evidence: Evidence, endpoint: Endpoint, *, with_speed: bool, progress: Progress) -> Verification:
    budget = evidence.budget
    workload = Workload(f"{evidence.workload_name}/held-out", evidence.held_out)
    speed = None
    limits = list(Verdict().limits)
    if budget.speed_limits and with_speed:  # before quality, because scoring adds to the peak memory
        load = workload.at_least(FULL_WAVES * evidence.streams)
        runs = [
            measure_speed(
                endpoint,
                load.variant(number),
                Arrivals("closed", max_concurrency=evidence.streams),
                Sampling(),
                price_per_hour=budget.price_per_hour,
                late_retries=LATE_RETRIES,
                accept_late=True,
                progress=progress,
            )
            for number in range(PROOF_RUNS)
        ]
        speed = combined(runs, Allowance(budget.confidence).error)
        ratio = evidence.speed.conditions.get("tokens_per_baseline_token", 1.0) if evidence.speed else 1.0
        speed = in_other_tokens(speed, ratio)
        limits += budget.judge_limits(speed, budget.speed_limits).limits
    held_against = {reference.request_id: reference for reference in evidence.references}
    evaluation = proof.evaluate(
        endpoint, workload, held_against, budget, concurrency=evidence.streams, progress=progress
    )
    before = evidence.quality.conditions.get("left_out", {}) if evidence.quality else {}
    gone = set(evaluation.measurement.conditions.get("left_out", {})) - set(before) - {"divergence"}
    if gone:
        raise GateFailed(f"{', '.join(sorted(gone))} was proven and can no longer be measured.")
    limits += evaluation.verdict.limits
    measurement = speed.joined(evaluation.measurement) if speed else evaluation.measurement
    skipped = () if with_speed else tuple(limit.quantity for limit in budget.speed_limits)
    return Verification(Verdict(tuple(limits)), replace(measurement, subject="the deployment"), skipped)


def check_artifact(path: Path, model_id: str) -> None:
    """Raise `GateFailed` where the files are not the accepted model's any more."""
    if not path.is_dir():
        raise GateFailed(f"{path} is gone: restore the artifact, or optimise again.")
    if not (path / LINEAGE_FILE).exists():
        return _check_directory(path, model_id)
    try:
        model = read_artifact(path)
    except StorageError as error:
        raise GateFailed(str(error)) from None
    if model.id != model_id:
        raise GateFailed(f"{path} is another model ({model.id}) than the accepted one ({model_id}).")
    return None


def _check_directory(path: Path, model_id: str) -> None:
    """An unmodified Hugging Face directory has no lineage file: its id is computed from its files."""
    if open_model(str(path)).id != model_id:
        raise GateFailed(f"{path} was changed since it was accepted: restore it, or optimise again.")
