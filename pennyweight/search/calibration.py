"""The certificate of a mixture, made again: on the held-out requests that it was made on (`pw verify`), or on new
traffic (`pw calibrate`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pennyweight import formats, report
from pennyweight.errors import GateFailed, Infeasible, StorageError, UsageError, WorkloadError
from pennyweight.measure.certificate import certify, least_kept
from pennyweight.measure.replay import Progress, no_progress
from pennyweight.mixture import Certificate, Mixture
from pennyweight.mixture_evidence import MixtureEvidence, Winner
from pennyweight.search.fitting import Embed, Half, rule_scores
from pennyweight.search.judging import Judgements, Judging, ask_judge, most_of, refuse_unjudged
from pennyweight.search.mixture_result import certificate_sentence, prompt_hash
from pennyweight.search.outcomes import OutcomeMatrix, collect, departures
from pennyweight.search.scoring import STRENGTHS, Scores, scores_of
from pennyweight.search.verify import check_artifact
from pennyweight.serve import open_service
from pennyweight.service import Service
from pennyweight.workload import Workload, clusters

Stage = Callable[[str], None]
REPORT = "report.html"
NOT_AGAIN = "Models, policies and speeds below are those of the search that chose it."


@dataclass(frozen=True)
class Mixed:
    """A directory that serves a mixture: its service, the mixture by name, and its evidence."""

    directory: Path
    service: Service
    name: str
    mixture: Mixture
    evidence: MixtureEvidence


@dataclass(frozen=True)
class Again:
    """The new certificate, and the bound on how many kept answers differ from the large member's."""

    certificate: Certificate
    departures: float


def serves_mixture(directory: Path) -> bool:
    return (directory / formats.MIXTURE_FILE).exists()


def read_mixed(directory: Path) -> Mixed:
    """Raises `UsageError` where the directory serves no mixture."""
    if not directory.is_dir():
        raise UsageError(f"{directory} does not exist: give the directory that `pw optimize … -o` wrote.")
    if not serves_mixture(directory):
        raise UsageError(f"{directory} holds no mixture: give what `pw optimize LARGE --also SMALL --mix … -o` wrote.")
    service = formats.read_service(directory)
    evidence: MixtureEvidence = formats.read("mixture", directory / formats.MIXTURE_FILE)
    if not service.mixtures:
        raise UsageError(f"{directory} serves one model, and no mixture: there is nothing to calibrate.")
    if evidence.chosen not in service.mixtures:
        raise StorageError(
            f"mixture.json in {directory} is about {evidence.chosen!r}, and service.json serves "
            f"{', '.join(service.mixtures)}: restore both, or optimise again."
        )
    return Mixed(directory, service, evidence.chosen, service.mixtures[evidence.chosen], evidence)


def verify_mixture(directory: Path, embed: Embed | None, stage: Stage, progress: Progress = no_progress) -> list[str]:
    """Checksums; then every held-out request is asked of both members again, and the threshold certified again. Raises
    `GateFailed` where that no longer holds; returns the result in sentences."""
    evidence: MixtureEvidence = formats.read("mixture", directory / formats.MIXTURE_FILE)
    service = formats.read_service(directory)
    stage("Checksums")
    for member in service.members.values():
        check_artifact(Path(member.model_path), member.model_id)
    if evidence.winner is Winner.SMALL:
        raise UsageError(
            f"The files of {evidence.chosen} are whole, but what it loses was not tested again: the large model is not "
            f"in {directory}. Repeat the search with `pw optimize … --also …`, in another directory."
        )
    if not service.mixtures:
        return [f"{evidence.chosen} alone is served, the model that nothing may be lost against: its files are whole."]
    mixed = read_mixed(directory)
    if mixed.mixture.certificate.limit != evidence.limit:
        raise GateFailed("The limits in service.json and mixture.json differ: restore them, or optimise again.")
    half = Workload("held-out", evidence.held_out)
    with tempfile.TemporaryDirectory(prefix="pennyweight-") as place:
        matrix = OutcomeMatrix(Path(place) / "outcomes.jsonl")
        threshold = mixed.mixture.rule.threshold
        scores = evidence.reference_scores
        again = certified(mixed, half, [threshold], embed, matrix, stage=stage, progress=progress, reference=scores)
    if again.certificate.chosen is None:
        last = again.certificate.tested[-1]
        raise GateFailed(
            f"The certificate no longer holds: {last.kept:.1%} are kept and up to {last.bound:.2%} is lost, "
            f"{evidence.limit.share:.1%} allowed."
        )
    return [certificate_sentence(again.certificate), "Its speed is not measured again: `pw bench` does."]


def calibrate(
    directory: Path,
    traffic: Workload,
    embed: Embed | None,
    *,
    stage: Stage,
    progress: Progress = no_progress,
    resume: bool = False,
) -> Mixture:
    """A new certificate on this traffic, by the thresholds that the tuning half fixed, and service.json with it: of
    what is lost against the large member as it is served. Raises `Infeasible`, with the service as it was, where
    nothing is certified."""
    mixed = read_mixed(directory)
    traffic = _unseen(mixed, traffic, stage)
    _refuse_too_few(mixed, traffic)
    thresholds = [float(value) for value in mixed.evidence.thresholds] or [mixed.mixture.rule.threshold]
    matrix = OutcomeMatrix(directory / f"calibration-{traffic.id}.jsonl", resume=resume)
    again = certified(mixed, traffic, thresholds, embed, matrix, stage=stage, progress=progress, resume=resume)
    chosen = again.certificate.chosen
    if chosen is None:
        tested = again.certificate.tested[:1]
        lost = "".join(f": the strictest threshold keeps {t.kept:.1%} and may lose {t.bound:.2%}" for t in tested)
        raise Infeasible(
            f"Nothing is certified on this traffic{lost}, {again.certificate.limit.share:.1%} allowed; the service is "
            f"as it was. Serve {mixed.mixture.large} alone, bring more traffic, or fit again with `pw optimize --mix`."
        )
    rule = replace(mixed.mixture.rule, threshold=chosen.threshold)
    found = replace(mixed.mixture, rule=rule, certificate=again.certificate, departures=again.departures)
    members = {
        name: replace(one, model_path=_beside(directory, one.model_path)) for name, one in mixed.service.members.items()
    }
    changed = replace(mixed.service, members=members, mixtures={**mixed.service.mixtures, mixed.name: found})
    formats.write("service", directory / formats.SERVICE_FILE, changed)
    evidence = replace(
        mixed.evidence,
        held_out=traffic.requests,
        workload_name=traffic.name,
        workload_id=traffic.id,
        reference_scores=(),
    )
    formats.write("mixture", directory / formats.MIXTURE_FILE, evidence)
    said = [f"Certified again on {traffic.name}: {certificate_sentence(again.certificate)}", NOT_AGAIN]
    report.write_mixture(directory / REPORT, evidence, said)
    return found


def certified(
    mixed: Mixed,
    half: Workload,
    thresholds: Sequence[float],
    embed: Embed | None,
    matrix: OutcomeMatrix,
    *,
    stage: Stage,
    progress: Progress,
    reference: Sequence[float] = (),
    resume: bool = False,
) -> Again:
    """Both members answer what the matrix lacks; then the thresholds are tested against the large member as it is
    served, or against the scores of a `reference`."""
    mixture = mixed.mixture
    for name in (mixture.large, mixture.small):
        stage(f"{name} answers")
        with open_service(Service.of(mixed.service.members[name], [name])) as endpoint:
            streams = mixed.evidence.streams
            collect(matrix, name, endpoint, half.requests, concurrency=streams, progress=progress)
    small, large = (matrix.of(name, half.requests) for name in (mixture.small, mixture.large))
    scores = Scores(
        matrix,
        (half, half),
        mixture.large,
        _judging(mixed, half, matrix, stage=stage, progress=progress, resume=resume),
    )
    labels = scores.labels(mixture.small, mixture.large, half)
    labels = replace(labels, reference=np.array(reference) if reference else None)
    outcomes = labels.outcomes(rule_scores(mixture.rule, Half(half.requests, small), embed))
    before = mixture.certificate
    found = certify(outcomes, thresholds, before.limit, error=before.error)
    chosen = found.chosen
    kept = outcomes.kept(chosen.threshold) if chosen else np.zeros(len(small), bool)
    return Again(replace(found, scores=scores.name), departures(small, large, kept, mixture.compared))


def _judging(
    mixed: Mixed, half: Workload, matrix: OutcomeMatrix, *, stage: Stage, progress: Progress, resume: bool
) -> Judging | None:
    """The large member judges the small one's answers, if it did when the mixture was certified."""
    if not mixed.evidence.judge:
        return None
    refuse_unjudged(half.requests, "new")
    small, large = mixed.mixture.small, mixed.mixture.large
    judgements = Judgements(matrix.file.with_name(f"judgements-{matrix.file.name}"), resume=resume)
    pairs = Scores(matrix, (half, half), large).pairs(small, half.requests)
    stage(f"{large} judges {small}'s answers")
    with open_service(Service.of(mixed.service.members[large], [large])) as endpoint:
        streams = mixed.evidence.streams
        ask_judge(judgements, small, endpoint, pairs, concurrency=streams, progress=progress)
    return Judging(judgements, large, mixed.evidence.judge)


def _unseen(mixed: Mixed, traffic: Workload, stage: Stage) -> Workload:
    """Without the requests that the rule was fitted on."""
    seen = set(mixed.evidence.tuned_on)
    fresh = tuple(request for request in traffic.requests if prompt_hash(request) not in seen)
    if not fresh:
        raise WorkloadError(f"The rule was fitted on these very requests of {traffic.name}: bring others.")
    if len(fresh) < len(traffic.requests):
        seen_before = len(traffic.requests) - len(fresh)
        stage(f"Left out, because the rule was fitted on them: {seen_before} of {len(traffic.requests)} requests")
    return replace(traffic, requests=fresh)


def _refuse_too_few(mixed: Mixed, traffic: Workload) -> None:
    limit, error = mixed.mixture.certificate.limit, mixed.mixture.certificate.error
    if mixed.evidence.judge:
        refuse_unjudged(traffic.requests, "new")
    most = most_of(traffic.requests) if mixed.evidence.judge else 1.0
    there, needed = len(set(clusters(traffic.requests).values())), least_kept(limit, error, most=most)
    before, now = mixed.mixture.certificate.scores, scores_of(traffic, judged=bool(mixed.evidence.judge))
    if STRENGTHS.index(now) < STRENGTHS.index(before):
        unlabelled = sum(not request.labelled for request in traffic.requests)
        raise WorkloadError(
            f"The mixture was certified by {before}, and {unlabelled} requests of {traffic.name} have no label: label "
            "them, or leave them out."
        )
    if there < needed:
        raise WorkloadError(
            f"A loss of at most {limit.share:.1%} takes {needed} independent requests even if none is lost, and "
            f"{traffic.name} has {there}: bring more."
        )


def _beside(directory: Path, path: str) -> str:
    """As service.json spells it: relative to its directory."""
    place = Path(path)
    return str(place.relative_to(directory)) if place.is_relative_to(directory) else path
