"""The output files of a search: the evidence, and for a chosen deployment its artifact, deployment.json and
DEPLOY.md."""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pennyweight import codec, formats
from pennyweight.checkpoint import link_or_copy, read_artifact
from pennyweight.deployment import Deployment
from pennyweight.evidence import Evidence, Speedup
from pennyweight.hardware import Hardware
from pennyweight.measurement import Comparison
from pennyweight.model import LINEAGE_FILE
from pennyweight.paths import cache_directory
from pennyweight.report import parts
from pennyweight.search.accounting import technique_gains
from pennyweight.search.question import Answer, Question
from pennyweight.search.similar_search import ANSWERS_FILE, service_with
from pennyweight.serve import catalogue
from pennyweight.service import Service
from pennyweight.similar_evidence import SimilarEvidence
from pennyweight.study import Stage, Trial

ARTIFACT = "artifact"


def gather(
    question: Question,
    answer: Answer,
    hardware: Hardware,
    trials: Sequence[Trial],
    similar: SimilarEvidence | None = None,
) -> Evidence:
    workload = question.workload
    ends = {"chosen": answer.chosen, "baseline": answer.baseline, "fastest_unmodified": answer.fastest_unmodified}
    memory = {name: _memory(deployment, trials) for name, deployment in ends.items()}
    return Evidence(
        outcome=answer.outcome,
        model_id=question.model.id,
        model_name=question.model.name,
        lineage=question.model.lineage,
        question=question.as_json(),
        budget=question.budget,
        streams=question.streams,
        workload_name=workload.name,
        workload_id=workload.id,
        workload_requests=len(workload.requests),
        baseline=answer.baseline,
        limits=answer.verdict,
        hardware=hardware,
        chosen=answer.chosen,
        fastest_unmodified=answer.fastest_unmodified,
        unmodified_wins=answer.unmodified_wins,
        quality=answer.evaluation.measurement if answer.evaluation else None,
        speed=answer.speed,
        against_baseline=_speedup(answer.against_baseline, answer.baseline),
        against_unmodified=_speedup(answer.against_unmodified, answer.fastest_unmodified),
        nearest=answer.nearest,
        refused=answer.refused,
        failures=answer.failures,
        versions=versions(),
        kernels=_kernels(answer.chosen, trials),
        techniques=technique_gains(trials),
        speculation=tuple(trial for trial in trials if trial.stage is Stage.SPECULATE and trial.comparison),
        trials=len(trials),
        peak_memory_bytes={name: peak for name, peak in memory.items() if peak is not None},
        seconds=answer.seconds,
        held_out=answer.held_out.requests,
        references=tuple(answer.references.values()),
        similar=similar,
    )


def summary(evidence: Evidence, report: Path) -> dict[str, Any]:
    """The one line that `--json` prints."""
    quantities = evidence.quality.quantities if evidence.quality else {}
    speedup = evidence.against_baseline

    def value(name: str) -> float | None:
        return quantities[name].value if name in quantities else None

    added = quantities.get("added_nats")
    return {
        "verdict": evidence.outcome,
        "chosen": codec.plain(evidence.chosen) if evidence.chosen else None,
        "baseline": codec.plain(evidence.baseline),
        "speedup": {
            "ratio": speedup.comparison.ratio if speedup else None,
            "ci95": _finite(speedup.comparison.bounds) if speedup else None,
            "against": speedup.against if speedup else None,
        },
        "quality": {
            "agreement": value("agreement"),
            "added_nats": value("added_nats"),
            "task_score": value("task_score"),
            "degradation": value("degradation"),
            "ci95": _finite(added.interval) if added else None,
        },
        **(
            {"similar": {"served": evidence.similar.served, **codec.plain(evidence.similar)}}
            if evidence.similar
            else {}
        ),
        "trials": evidence.trials,
        "seconds": round(evidence.seconds, 1),
        "report": str(report),
    }


def write(directory: Path, evidence: Evidence) -> None:
    """Write evidence.json and, if a deployment was chosen, the deployment with its artifact."""
    formats.write("evidence", directory / formats.EVIDENCE_FILE, evidence)
    chosen = evidence.chosen
    if chosen is None:
        return
    if chosen.engine == catalogue.REMOTE:
        formats.write_deployment(directory, chosen)
        return
    kept_artifact(Path(chosen.model_path), directory / ARTIFACT)
    kept = replace(chosen, model_path=ARTIFACT)
    formats.write_deployment(directory, kept)
    if evidence.similar is not None and evidence.similar.served:
        service = service_with(kept, evidence.similar.policy, Path(ANSWERS_FILE))
        formats.write("service", directory / formats.SERVICE_FILE, service)
    (directory / "DEPLOY.md").write_text(_deploy_page(evidence, chosen), encoding="utf-8")


def kept_artifact(source: Path, target: Path) -> None:
    """A copy that is served: links to what lies in our cache. The user's own files may be edited in place, and are
    copied."""
    if (source / LINEAGE_FILE).exists():
        read_artifact(source)  # never ship what was damaged since it was measured
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    ours = source.is_relative_to(cache_directory())
    shutil.copytree(source, target, copy_function=link_or_copy if ours else shutil.copyfile)


def _finite(interval: Sequence[float] | None) -> list[float] | None:
    """JSON has no infinity, so an unbounded interval becomes None."""
    return list(interval) if interval and all(math.isfinite(end) for end in interval) else None


def _kernels(chosen: Deployment | None, trials: Sequence[Trial]) -> tuple[str, ...]:
    """The matrix-multiplication kernels of the proof, as the engine reported them."""
    proofs = [t for t in trials if chosen and t.stage is Stage.PROVE and t.deployment.id == chosen.id]
    return tuple(proofs[-1].notes.get("kernels", ())) if proofs else ()


def _speedup(comparison: Comparison | None, against: Deployment | None) -> Speedup | None:
    return Speedup(against.short_label, comparison) if comparison and against else None


def _memory(deployment: Deployment | None, trials: Sequence[Trial]) -> float | None:
    """The highest peak memory of this deployment in any trial."""
    peaks = [
        trial.measurement["peak_memory_bytes"]
        for trial in trials
        if trial.deployment == deployment and trial.measurement and "peak_memory_bytes" in trial.measurement
    ]
    return max(peaks, default=None)


def versions() -> Mapping[str, str]:
    """Versions of everything that the measured numbers depend on."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for package in ("pennyweight", "auto-round", *catalogue.packages()):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    offers = (catalogue.offer(name) for name in catalogue.names())
    return found | {offer.engine: offer.version for offer in offers if offer.version and offer.engine not in found}


def _similar_page(evidence: Evidence) -> str:
    found = evidence.similar
    if found is None or not found.served:
        return ""
    return f"""## Answers to similar questions

Questions like earlier ones are answered from `answers.db`. Of {found.requests} held-out requests {found.hits} could
be, {found.wrong} of them wrongly: at most {found.bound:.1%} are, {found.policy.limit:.1%} is allowed. An answer lives
for 30 days. Keep the file with this directory: it also holds from which score on is served. A client refuses them with
the header `x-pennyweight-cache: no-similar`, `pw cache forget ID --file answers.db` forgets a wrong one, and
`pw serve . --cache-similar 0` serves none. docs/similar-answers.md says how they are watched.

"""


def _deploy_page(evidence: Evidence, chosen: Deployment) -> str:
    limits = "\n".join(f"    {line}" for line in parts.lines(evidence.quality, evidence.speed, evidence.limits))
    name, version = Service.of(chosen).names[0], evidence.versions.get("pennyweight", "")
    offer = catalogue.offer(chosen.engine)
    engine = f"It was measured with {chosen.engine} {offer.version}"
    similar = _similar_page(evidence)
    engine += f", which `{offer.install}` brings." if offer.install.startswith("pw ") else "."
    return f"""# {evidence.model_name} on {chosen.short_label}

Chosen by pennyweight {version} for the workload `{evidence.workload_name}` and accepted with:

{limits}

## Serve

Install pennyweight as its README says, from the same checkout or release. {engine} Then, in this directory:

    pw serve . --port 8000

OpenAI clients find it at `http://127.0.0.1:8000/v1`, model `{name}`.

{similar}## Verify

    pw verify .

checks the artifact's checksums and runs the gates above again on this machine. Exit code 4 means that one failed.

`{ARTIFACT}/` is in {chosen.scheme}, made as `{ARTIFACT}/{LINEAGE_FILE}` says. All numbers are in
`{formats.EVIDENCE_FILE}`; docs/formats.md explains its keys.
"""
