"""Does a deployment directory still hold what it was accepted with? Checksums, then every gate again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.budget import Budget, LimitVerdict, Outcome, Verdict
from pennyweight.checkpoint import open_model, read_artifact
from pennyweight.deployment import Deployment
from pennyweight.errors import GateFailed, StorageError
from pennyweight.hardware import detect
from pennyweight.measure import quality
from pennyweight.measure.client import Sampling
from pennyweight.measure.quality import Reference
from pennyweight.measure.replay import Progress, unwatched
from pennyweight.measure.speed import in_other_tokens, measure_speed
from pennyweight.measurement import Measurement
from pennyweight.model import LINEAGE_FILE
from pennyweight.search.evidence import EVIDENCE_FILE
from pennyweight.search.trials import FULL_WAVES
from pennyweight.serve.opening import serve
from pennyweight.traces import pennyweight_jsonl
from pennyweight.workload import Arrivals, Workload


@dataclass(frozen=True)
class Verification:
    """The gates of today. `skipped` names those that only hold on the machine of the evidence."""

    verdict: Verdict
    measurement: Measurement
    skipped: tuple[str, ...]


def verify(directory: Path, stage: Callable[[str], None] = print, progress: Progress = unwatched) -> Verification:
    """Raise `GateFailed` with the reason if anything that was accepted no longer holds."""
    evidence = read_evidence(directory)
    deployment = Deployment.read(directory)
    accepted = evidence["chosen"]
    for name in ("engine", "model_id", "scheme", "settings", "served_name", "recipe"):
        if getattr(deployment, name) != accepted.get(name, ""):
            raise GateFailed(f"{name} in deployment.json is not what was accepted: restore it, or optimise again.")
    stage("Checksums")
    _check_artifact(Path(deployment.model_path), deployment.model_id)
    budget = Budget.from_json(evidence["question"]["budget"])
    workload = _held_out(evidence)
    references = {r["request_id"]: Reference.from_json(r) for r in evidence["references"]}
    same_machine = (evidence["hardware"]["cpu"], evidence["hardware"]["cores"]) == (detect().cpu, detect().cores)
    stage(f"Gates of {deployment.label}")
    limits: list[LimitVerdict] = []
    with serve(deployment) as endpoint:
        speed = None
        if budget.speed_limits and same_machine:  # before quality, whose scoring takes memory of its own
            streams = evidence["question"]["streams"]
            speed = measure_speed(
                endpoint,
                workload.at_least(FULL_WAVES * streams),
                Arrivals("closed", max_concurrency=streams),
                Sampling(),
                price_per_hour=budget.price_per_hour,
                progress=progress,
            )
            speed = in_other_tokens(speed, evidence["speed"]["conditions"].get("token_growth", 1.0))
            limits += budget.judge_limits(speed, budget.speed_limits).limits
        evaluation = quality.evaluate(endpoint, workload, references, budget, progress=progress)
    limits += evaluation.verdict.limits
    measurement = speed.joined(evaluation.measurement) if speed else evaluation.measurement
    verdict = Verdict(tuple(limits))
    if verdict.outcome is not Outcome.ACCEPT:
        raise GateFailed(f"The gates no longer hold: {verdict.reason}.")
    skipped = () if same_machine else tuple(limit.quantity for limit in budget.speed_limits)
    return Verification(verdict, measurement, skipped)


def read_evidence(directory: Path) -> dict[str, Any]:
    file = directory / EVIDENCE_FILE
    try:
        evidence: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise StorageError(f"{file} does not exist: give a directory that `pw optimize -o` wrote.") from None
    except ValueError as error:
        raise GateFailed(f"{file} is damaged ({error}): optimise again.") from None
    missing = [name for name in ("question", "workload", "held_out", "references", "hardware") if name not in evidence]
    if missing:
        raise GateFailed(f"{file} lacks {', '.join(missing)}: optimise again.")
    if not evidence.get("chosen"):
        raise GateFailed(f"{file} holds no accepted deployment: its search ended infeasible.")
    return evidence


def _check_artifact(path: Path, model_id: str) -> None:
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
    """An unmodified Hugging Face directory has no lineage of ours: its recipe is its files."""
    if open_model(str(path)).id != model_id:
        raise GateFailed(f"{path} was changed since it was accepted: restore it, or optimise again.")


def _held_out(evidence: dict[str, Any]) -> Workload:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "held-out.jsonl"
        file.write_text("".join(json.dumps(request) + "\n" for request in evidence["held_out"]))
        return pennyweight_jsonl.read(file, name=f"{evidence['workload']['name']}/held-out")
