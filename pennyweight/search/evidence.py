"""What a deployment was accepted with: enough to serve it, to re-run its gates, and to be believed."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pennyweight.checkpoint import link_or_copy, read_artifact
from pennyweight.deployment import Deployment
from pennyweight.hardware import Hardware
from pennyweight.measure.compare import Comparison
from pennyweight.model import LINEAGE_FILE
from pennyweight.search import speculating
from pennyweight.search.accounting import account
from pennyweight.search.question import Answer, Question
from pennyweight.serve import catalogue
from pennyweight.study import Trial

EVIDENCE_FILE = "evidence.json"
ARTIFACT = "artifact"
PACKAGES = ("torch", "transformers", "auto-round", "openvino-genai", "onnxruntime", "onnxruntime-genai")


def gather(question: Question, answer: Answer, hardware: Hardware, trials: Sequence[Trial]) -> dict[str, Any]:
    """The evidence as one JSON value."""
    return {
        "verdict": verdict_word(answer),
        "model": {"id": question.model.id, "name": question.model.name, "lineage": question.model.lineage.as_json()},
        "question": question.as_json(),
        "workload": {
            "name": question.workload.name,
            "id": question.workload.id,
            "requests": len(question.workload.requests),
        },
        "chosen": answer.chosen.as_json() if answer.chosen else None,
        "baseline": answer.baseline.as_json(),
        "fastest_unmodified": answer.fastest_unmodified.as_json() if answer.fastest_unmodified else None,
        "unmodified_wins": answer.unmodified_wins,
        "limits": answer.verdict.as_json(),
        "quality": answer.evaluation.measurement.as_json() if answer.evaluation else None,
        "speed": answer.speed.as_json() if answer.speed else None,
        "speedup": {
            "baseline": _comparison(answer.against_baseline, answer.baseline),
            "fastest_unmodified": _comparison(answer.against_unmodified, answer.fastest_unmodified),
        },
        "nearest": answer.nearest.as_json() if answer.nearest else None,
        "refused": [list(row) for row in answer.refused],
        "hardware": hardware.as_json(),
        "versions": versions(),
        "kernels": _kernels(answer.chosen, trials),
        "techniques": account(trials),
        "speculation": [dict(trial.notes) for trial in trials if trial.stage == speculating.STAGE and trial.notes],
        "trials": len(trials),
        "peak_memory_bytes": {
            "chosen": _memory(answer.chosen, trials),
            "baseline": _memory(answer.baseline, trials),
            "fastest_unmodified": _memory(answer.fastest_unmodified, trials),
        },
        "seconds": answer.seconds,
        "held_out": [request.as_json() for request in answer.held_out.requests],
        "references": [reference.as_json() for reference in answer.references.values()],
    }


def _kernels(chosen: Deployment | None, trials: Sequence[Trial]) -> list[str]:
    """What multiplied in the proof, as the engine told it."""
    proofs = [trial for trial in trials if chosen and trial.stage == "prove" and trial.deployment.id == chosen.id]
    return list(proofs[-1].notes.get("kernels", ())) if proofs else []


def verdict_word(answer: Answer) -> str:
    return "ACCEPT" if answer.chosen else "INFEASIBLE"


def summary(evidence: Mapping[str, Any], report: Path) -> dict[str, Any]:
    """The one line that `--json` prints."""
    quality = evidence["quality"]["quantities"] if evidence["quality"] else {}
    comparison = evidence["speedup"]["baseline"]

    def value(name: str) -> float | None:
        return quality[name]["value"] if name in quality else None

    return {
        "verdict": evidence["verdict"],
        "chosen": evidence["chosen"],
        "baseline": evidence["baseline"],
        "speedup": {
            "ratio": comparison["ratio"] if comparison else None,
            "ci95": _finite(comparison["ci95"]) if comparison else None,
            "against": comparison["against"] if comparison else None,
        },
        "quality": {
            "agreement": value("agreement"),
            "added_nats": value("added_nats"),
            "task_score": value("task_score"),
            "degradation": value("degradation"),
            "ci95": _finite(quality["added_nats"].get("interval")) if "added_nats" in quality else None,
        },
        "trials": evidence["trials"],
        "seconds": round(evidence["seconds"], 1),
        "report": str(report),
    }


def _finite(interval: Sequence[float] | None) -> list[float] | None:
    """JSON has no infinity: an interval without bounds is none."""
    return list(interval) if interval and all(math.isfinite(end) for end in interval) else None


def write(directory: Path, evidence: Mapping[str, Any], chosen: Deployment | None) -> None:
    """evidence.json, and for a chosen deployment its artifact, deployment.json and DEPLOY.md."""
    (directory / EVIDENCE_FILE).write_text(json.dumps(evidence, indent=1) + "\n")
    if chosen is None:
        return
    if chosen.engine == catalogue.REMOTE:
        chosen.write(directory)
        return
    source = Path(chosen.model_path).resolve()
    if (source / LINEAGE_FILE).exists():
        read_artifact(source)  # never ship what was damaged since it was measured
    target = directory / ARTIFACT
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=link_or_copy)
    shipped = Deployment.from_json({**chosen.as_json(), "model_path": ARTIFACT})
    shipped.write(directory)
    (directory / "DEPLOY.md").write_text(_deploy_page(evidence, chosen))


def _comparison(comparison: Comparison | None, against: Deployment | None) -> dict[str, Any] | None:
    if comparison is None or against is None:
        return None
    return {**comparison.as_json(), "against": against.label}


def _memory(deployment: Deployment | None, trials: Sequence[Trial]) -> float | None:
    """The highest peak that was seen of it."""
    peaks = [
        trial.measurement["peak_memory_bytes"]
        for trial in trials
        if trial.deployment == deployment and trial.measurement and "peak_memory_bytes" in trial.measurement
    ]
    return max(peaks, default=None)


def versions() -> dict[str, str]:
    """Of everything that a number here depends on."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for package in ("pennyweight", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    offers = (catalogue.offer(name) for name in catalogue.names())
    return found | {offer.engine: offer.version for offer in offers if offer.version and offer.engine not in found}


def _deploy_page(evidence: Mapping[str, Any], chosen: Deployment) -> str:
    limits = "\n".join(f"* {row['reason']}: {row['outcome']}" for row in evidence["limits"]["limits"])
    offer = catalogue.offer(chosen.engine)
    bringing = f"`pip install pennyweight=={evidence['versions'].get('pennyweight')}`"
    if offer.install.startswith("pw "):
        bringing += f" and `{offer.install}` bring"
    else:
        bringing += " brings"
    return f"""# {evidence["model"]["name"]} on {chosen.label}

Chosen by pennyweight for the workload `{evidence["workload"]["name"]}` and accepted with:

{limits}

## Serve

    pw serve . --port 8000

Then point any OpenAI client at `http://127.0.0.1:8000/v1`, model `{chosen.served_name}`.
It needs {chosen.engine} {offer.version}; {bringing} it.

## Verify

    pw verify .

checks the artifact's checksums and re-runs the gates above on this machine. Exit code 4 means that one failed.

`artifact/` is in {chosen.scheme}, made as `artifact/{LINEAGE_FILE}` says. All numbers are in `{EVIDENCE_FILE}`.
"""
