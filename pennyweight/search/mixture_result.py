"""What a choice between models shows, as values for mixture.json and the report; and the directory that is served."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pennyweight import codec, formats
from pennyweight.hardware import Hardware
from pennyweight.measure.certificate import each_tested, thresholds_of
from pennyweight.mixture import Certificate
from pennyweight.mixture_evidence import MemberResult, MixtureEvidence, PolicyResult, Winner
from pennyweight.search import racing
from pennyweight.search.members import Member
from pennyweight.search.mixture_search import MixtureAnswer, MixtureSearch
from pennyweight.search.policies import Candidate
from pennyweight.search.result import kept_artifact, versions
from pennyweight.service import Service
from pennyweight.workload import Request

CURVE = 40  # points
ARTIFACTS = "artifacts"


def gather(search: MixtureSearch, answer: MixtureAnswer, hardware: Hardware) -> MixtureEvidence:
    first = search.question.first
    members = [answer.large, answer.reference, *answer.others]
    return MixtureEvidence(
        winner=answer.winner,
        chosen=answer.chosen,
        model_name=first.model.name,
        workload_name=first.workload.name,
        workload_id=first.workload.id,
        limit=search.question.limit,
        confidence=search.question.confidence,
        scores=search.scores.name,
        streams=first.streams,
        members=member_results(search, members, answer.races),
        policies=tuple(policy_result(search, one, member, answer.large) for one, _, member in answer.candidates),
        held_out=search.held_out.requests,
        hardware=hardware,
        thresholds=tuple(thresholds_of(answer.best[0].policy.tuning)) if answer.best else (),
        tuned_on=tuple(prompt_hash(request) for request in search.tuning.requests),
        reference_scores=_reference_scores(search, answer),
        judge=search.scores.judging.calibrations if search.scores.judging else {},
        faster=answer.faster,
        served=answer.served,
        served_score=answer.served_score,
        remarks=answer.remarks,
        versions=versions(),
        seconds=answer.seconds,
    )


def prompt_hash(request: Request) -> str:
    return hashlib.sha256(request.prompt_key.encode()).hexdigest()[:16]


def _reference_scores(search: MixtureSearch, answer: MixtureAnswer) -> tuple[float, ...]:
    if answer.reference.name == answer.large.name:
        return ()
    return tuple(search.scores.of(answer.reference.name, search.held_out.requests).tolist())


def member_results(
    search: MixtureSearch, members: Sequence[Member], races: Sequence[racing.Race]
) -> tuple[MemberResult, ...]:
    raced = {race.name: race for race in races}
    reference = search.scores.reference
    found = []
    for name, member in {member.name: member for member in reversed(members)}.items():
        asked = [r for r in search.held_out.requests if not search.matrix.missing(name, [r])]
        score = search.scores.mean(name, asked)
        race = raced.get(name)
        last = race.looks[-1] if race else None
        found.append(
            MemberResult(
                name,
                member.deployment.short_label,
                member.figures,
                score,
                len(asked),
                last.lost if last else None,
                last.upper if last else None,
                race.outcome if race else ("reference" if name == reference else "not raced"),
            )
        )
    return tuple(reversed(found))


def policy_result(search: MixtureSearch, candidate: Candidate, small: Member, large: Member) -> PolicyResult:
    certificate, policy = candidate.certificate, candidate.policy
    labels = search.scores.labels(small.name, large.name, search.held_out)
    outcomes = labels.outcomes(policy.held_out)
    thresholds = thresholds_of(policy.tuning)
    rows = each_tested(outcomes, thresholds[:: max(1, len(thresholds) // CURVE)], certificate.limit, error=0.05)
    chosen = certificate.chosen
    last = chosen or (certificate.tested[-1] if certificate.tested else None)
    return PolicyResult(
        policy.name,
        small.name,
        chosen is not None,
        chosen.kept if chosen else 0.0,
        last.lost if last else 0.0,
        last.bound if last else 1.0,
        candidate.cost,
        tuple((row.kept, row.lost) for row in rows),
    )


def write(directory: Path, evidence: MixtureEvidence, service: Service) -> None:
    """mixture.json, service.json, and the members' artifacts."""
    formats.write("mixture", directory / formats.MIXTURE_FILE, evidence)
    members = {}
    for number, (name, deployment) in enumerate(service.members.items()):
        place = f"{ARTIFACTS}/{number}"
        kept_artifact(Path(deployment.model_path), directory / place)
        members[name] = replace(deployment, model_path=place)
    formats.write("service", directory / formats.SERVICE_FILE, replace(service, members=members))


def summary(evidence: MixtureEvidence, report: Path) -> dict[str, Any]:
    """The one line that `--json` prints."""
    found: dict[str, Any] = codec.plain(replace(evidence, held_out=(), thresholds=()))
    return {**found, "report": str(report)}


def sentences(evidence: MixtureEvidence, certificate: Certificate | None) -> list[str]:
    """The result in words."""
    large = evidence.members[0].name
    limit = f"{evidence.limit.share:.1%} of the score"
    if evidence.winner is Winner.LARGE:
        found = [f"{large} alone: nothing else is certified to lose at most {limit} and is certainly faster."]
    elif evidence.winner is Winner.SMALL:
        member = next(one for one in evidence.members if one.name == evidence.chosen)
        found = [f"{member.name} alone: it loses at most {member.bound or 0:.2%} of {large}'s score ({limit} allowed)."]
    else:
        found = [f"A mixture is chosen: {evidence.chosen}, decided for each request."]
    if certificate is not None:
        found.append(certificate_sentence(certificate))
    if evidence.faster is not None:
        found.append(
            f"{evidence.faster.ratio:.2f} times the requests a second of {large} alone "
            f"({evidence.faster.describe_interval()})."
        )
    return [*found, *evidence.remarks]


def certificate_sentence(certificate: Certificate) -> str:
    chosen = certificate.chosen
    if chosen is None:
        return f"Nothing is certified to lose at most {certificate.limit.share:.1%}."
    return (
        f"{chosen.kept:.1%} of requests are kept by the small model; that loses {chosen.lost:+.2%} of the score on "
        f"{certificate.requests} held-out requests, and at most {chosen.bound:.2%} with {1 - certificate.error:.1%} "
        "confidence."
    )
