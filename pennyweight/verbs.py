"""The library's verbs: what the command line does, for programs. Each imports what it needs when it is called, so that
`import pennyweight` costs nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pennyweight.budget import Budget
from pennyweight.deployment import Deployment
from pennyweight.errors import StorageError, UsageError
from pennyweight.measurement import Measurement
from pennyweight.model import Model
from pennyweight.paths import absolute
from pennyweight.service import Service
from pennyweight.workload import Arrivals, Workload

if TYPE_CHECKING:
    from pennyweight.evidence import Evidence
    from pennyweight.hardware import Hardware
    from pennyweight.inputs import Target
    from pennyweight.measure.proof.proof import Evaluation
    from pennyweight.mixture_evidence import MixtureEvidence
    from pennyweight.search import Answer, Listener, Question
    from pennyweight.search.mixture_question import MixtureQuestion
    from pennyweight.serve import Endpoint
    from pennyweight.similar_evidence import SimilarEvidence
    from pennyweight.techniques import Technique

MIN_DISK_BYTES = 1 << 28


def optimize(
    model: str | Path | Model,
    workload: str | Path | Workload,
    budget: Budget | None = None,
    *,
    output: str | Path = "pennyweight-out",
    listener: Listener | None = None,
    resume: bool = False,
    **question: Any,
) -> Answer:
    """The cheapest deployment of `model` that is proven to hold `budget` on `workload`; everything that it rests on is
    written into the directory `output`.

    `model` is a Hub id, a Hugging Face directory, a .gguf file or `demo`; `workload` a built-in name or a file.
    `listener` receives stages, progress and trials; by default they are shown on standard error. Further arguments are
    those of `search.Question` (streams, seed, engines, schemes, rounds, techniques as {name: amount}, …).

    Raises `PennyweightError` when no search is possible; an `outcome` other than ACCEPT is returned, not raised.
    """
    from pennyweight.search import Question
    from pennyweight.search.question import refuse_early

    with _listening(listener) as heard:
        opened = _opened(model, heard)
        unknown = set(question) - {one.name for one in fields(Question)}
        if unknown:
            raise UsageError(f"optimize has no argument {', '.join(sorted(unknown))}: see pennyweight.search.Question.")
        asked = Question(opened, _workload(workload, opened.path), budget or Budget(), **question)
        refuse_early(asked)
        hardware = _hardware(heard)
        place = absolute(output)
        prepare_output(place, resume=resume)
        answer, _ = run_search(asked, place, hardware, heard, resume=resume)
    return answer


def open_model(model: str | Path, *, listener: Listener | None = None) -> Model:
    """The model that a Hub id, a Hugging Face directory, a .gguf file or `demo` names, its files checked."""
    with _listening(listener) as heard:
        return _opened(model, heard)


def apply(technique: Technique, model: str | Path | Model, *, listener: Listener | None = None) -> Model:
    """The model after the technique, from the cache or built now, as an artifact that stock engines load."""
    from pennyweight import techniques

    with _listening(listener) as heard:
        opened = _opened(model, heard)
        heard.stage(f"{technique.name.capitalize()}: {opened.name}")
        return techniques.apply(technique, opened, heard.progress)


def open_service(service: str | Path | Deployment | Service) -> AbstractContextManager[Endpoint]:
    """The endpoint (`base_url`, `model`) of a running service, engines and gateway, for as long as the context
    lasts."""
    from pennyweight.inputs import read_whole_service
    from pennyweight.serve import open_service as opened

    if isinstance(service, Deployment):
        service = Service.of(service)
    return opened(service if isinstance(service, Service) else read_whole_service(service))


def bench(
    target: str | Path | Deployment | Service,
    workload: str | Path | Workload,
    *,
    max_concurrency: int = 32,
    seed: int = 0,
    direct: bool = False,
    listener: Listener | None = None,
) -> Measurement:
    """Latency, throughput and memory of a service, a deployment, its directory or a URL in a closed loop. `direct` asks
    the engine without the gateway."""
    from pennyweight.measure.client import Sampling
    from pennyweight.measure.speed import LATE_RETRIES, measure_speed

    with _listening(listener) as heard, ExitStack() as stack:
        parsed = _target(target)
        requests = _workload(workload, parsed.tokenizer)
        heard.stage(f"Starting {parsed.label}")
        endpoint = parsed.open(stack, direct=direct)
        heard.stage(f"Replaying {requests.name}: {len(requests.requests)} requests")
        arrivals = Arrivals("closed", max_concurrency=max_concurrency)
        return measure_speed(
            endpoint,
            requests,
            arrivals,
            Sampling(),
            seed=seed,
            late_retries=LATE_RETRIES,
            progress=heard.progress,
            say=heard.stage,
        )


def evaluate(
    candidate: str | Path | Deployment | Service,
    against: str | Path | Deployment | Service,
    workload: str | Path | Workload,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    held_out: bool = True,
    listener: Listener | None = None,
) -> Evaluation:
    """Quality of `candidate`, held against the answers of `against`, on the workload's held-out half (or on all of it):
    its measurement, and the verdict on the budget's quality limits."""
    from pennyweight.measure.proof import proof
    from pennyweight.measure.proof.power import undecidable
    from pennyweight.measure.proof.references import references
    from pennyweight.tokenizer import translation

    a, b = _target(candidate), _target(against)
    requests = _workload(workload, a.tokenizer or b.tokenizer)
    half = requests.split(seed)[1] if held_out else requests
    hopeless = undecidable(budget or Budget(), half.requests)
    if hopeless:
        raise UsageError(f"{requests.name!r} cannot decide this. {hopeless}")
    with _listening(listener) as heard:
        with ExitStack() as stack:
            heard.stage(f"Baseline: {b.label}")
            made = references(b.open(stack), half.requests, heard.progress)
        with ExitStack() as stack:
            heard.stage(f"Candidate: {a.label}")
            translate = translation(b.tokenizer, a.tokenizer) if a.tokenizer and b.tokenizer else None
            held_against = {r.request_id: r.translated(translate) if translate else r for r in made}
            return proof.evaluate(a.open(stack), half, held_against, budget or Budget(), progress=heard.progress)


# -- what the command line shares --


def refuse_output(output: Path, *, resume: bool) -> None:
    """Raise if this is no place for a new search, or with `resume` no search to go on with."""
    from pennyweight.journal import STUDY_FILE

    if resume:
        if not (output / STUDY_FILE).exists():
            raise StorageError(f"{output} holds no search to resume: start it without --resume.")
    elif output.exists() and not output.is_dir():
        raise StorageError(f"{output} is a file: choose a directory with -o.")
    elif output.exists() and any(output.iterdir()):
        raise StorageError(f"{output} is already there: choose another directory with -o, or go on with --resume.")


def refuse_mixture_output(output: Path, *, resume: bool) -> None:
    """As `refuse_output`, for a choice between models."""
    if resume and not (output / "members.jsonl").exists():
        raise StorageError(f"{output} holds no choice between models to resume: start it without --resume.")
    if not resume:
        refuse_output(output, resume=False)


def prepare_output(output: Path, *, resume: bool) -> None:
    """A directory for a new search, or the one of a search to go on with."""
    refuse_output(output, resume=resume)
    make_output(output)


def make_output(output: Path) -> None:
    """The directory, on a disk with room."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{output} cannot be made ({error.strerror}): choose another directory with -o.") from None
    if shutil.disk_usage(output).free < MIN_DISK_BYTES:
        raise StorageError(f"The disk of {output} has less than 256 MiB free: free some space.")


def run_search(
    question: Question, output: Path, hardware: Hardware, listener: Listener, *, resume: bool
) -> tuple[Answer, Evidence]:
    """Search, then write evidence and report, whatever the outcome."""
    from pennyweight import report
    from pennyweight.search import result, start
    from pennyweight.serve import catalogue

    search = start(question, output, hardware, listener, resume=resume)
    before, began = sum(trial.seconds for trial in search.trials.study.trials), time.perf_counter()
    answer = search.run()
    answer = replace(answer, seconds=before + time.perf_counter() - began)
    similar = _similar(question, answer, output, listener)
    listener.stage("Writing the report")
    trials = search.trials.study.trials
    evidence = result.gather(question, answer, hardware, trials, similar)
    result.write(output, evidence)
    report.write(output / "report.html", evidence, trials, colours=catalogue.colours())
    return answer, evidence


def _similar(question: Question, answer: Answer, output: Path, listener: Listener) -> SimilarEvidence | None:
    """Whether answers to similar questions are served too; None where nothing asks for it, or nothing was chosen."""
    from pennyweight.search.similar_bench import ServiceSimilarBench
    from pennyweight.search.similar_search import ANSWERS_FILE, SimilarSearch

    if not question.similar or answer.chosen is None:
        return None

    def remove_answers() -> None:
        for file in output.glob(f"{ANSWERS_FILE}*"):
            file.unlink()

    remove_answers()  # of a run that was cut off
    bench = ServiceSimilarBench(
        output,
        listener.progress,
        question.streams,
        rounds=question.rounds,
        seed=question.seed,
        start_timeout=question.start_timeout,
    )
    found = SimilarSearch(question, bench, listener).run(answer, output / ANSWERS_FILE)
    if not found.served:
        remove_answers()
    return found


def run_mixture(
    question: MixtureQuestion, output: Path, hardware: Hardware, listener: Listener, *, resume: bool
) -> tuple[MixtureEvidence, Service, list[str]]:
    """Choose between models and mixtures of them; write mixture.json, the service and the report. -> with the result in
    sentences"""
    from pennyweight import report
    from pennyweight.search import mixture_result
    from pennyweight.search.fitting import EMBEDDING
    from pennyweight.search.judging import Judgements
    from pennyweight.search.members import Members
    from pennyweight.search.mixture_bench import ServiceMixtureBench
    from pennyweight.search.mixture_search import MixtureSearch
    from pennyweight.search.outcomes import OutcomeMatrix

    embed = embedding(listener, wanted=bool(EMBEDDING & set(question.policies)))
    search = MixtureSearch(
        question,
        Members(output / "members.jsonl", question.as_json(), listener, hardware, resume=resume),
        ServiceMixtureBench(question.first, output, listener),
        OutcomeMatrix(output / "outcomes.jsonl", resume=resume),
        listener,
        embed=embed,
        judgements=Judgements(output / "judgements.jsonl", resume=resume) if question.judge else None,
    )
    answer = search.run()
    listener.stage("Writing the report")
    evidence = mixture_result.gather(search, answer, hardware)
    mixture_result.write(output, evidence, answer.service)
    said = mixture_result.sentences(evidence, answer.mixture.certificate if answer.mixture else None)
    report.write_mixture(output / "report.html", evidence, said)
    return evidence, answer.service, said


def embedding(listener: Listener, *, wanted: bool, place: str = "") -> Callable[[Sequence[str]], Any] | None:
    """The sentence embedding that routers use, of a directory or the one of pennyweight[similar]; None where none is
    wanted. Raises `UsageError` where it is not
    installed."""
    from pennyweight.embedding import SentenceEmbedding

    if not wanted:
        return None
    listener.stage("Loading the sentence embedding")
    return SentenceEmbedding(Path(place) if place else None)


def _listening(listener: Listener | None) -> AbstractContextManager[Listener]:
    from pennyweight.console import Live

    return Live() if listener is None else nullcontext(listener)


def _opened(model: str | Path | Model, listener: Listener) -> Model:
    from pennyweight.inputs import open_model

    if isinstance(model, Model):
        return model
    listener.stage(f"Opening {model}")
    return open_model(str(model), listener.progress)


def _target(target: str | Path | Deployment | Service) -> Target:
    from pennyweight.inputs import Target, read_target

    if isinstance(target, Deployment):
        target = Service.of(target)
    return Target(target.label, target) if isinstance(target, Service) else read_target(str(target))


def _workload(workload: str | Path | Workload, tokenizer: Path | None) -> Workload:
    from pennyweight.inputs import read_workload

    return workload if isinstance(workload, Workload) else read_workload(str(workload), tokenizer=tokenizer)


def _hardware(listener: Listener) -> Hardware:
    from pennyweight.plan.machine import measured_hardware

    listener.stage("Measuring this machine")
    return measured_hardware()
