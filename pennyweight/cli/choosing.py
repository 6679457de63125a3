"""`pw optimize LARGE --also SMALL [--mix …]`: the smallest model that holds, or a mixture with the large one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pennyweight.budget import Budget
from pennyweight.errors import UsageError

DEFAULT_LOSS = 0.02  # of the large model's score


@dataclass(frozen=True)
class MixOptions:
    """Those of the options that a choice between models takes."""

    policies: tuple[str, ...]
    judge: bool
    share: float
    confidence: float
    streams: int
    seed: int
    engines: tuple[str, ...] | None
    schemes: tuple[str, ...] | None
    rounds: int
    start_timeout: float
    num_prompts: int | None
    trace_format: str | None


if TYPE_CHECKING:
    from pennyweight.search.mixture_question import MixtureQuestion

TAKEN = (  # options that a choice between models takes
    *("model", "config", "workload", "output", "max_degradation", "confidence", "max_concurrency", "engines"),
    *("schemes", "also", "mix", "judge", "num_prompts", "seed", "trace_format", "rounds", "resume", "start_timeout"),
    *("as_json", "dry_run"),
)
GIVEN = ("COMMANDLINE", "DEFAULT_MAP")  # on the command line, or in the file of --config


def refuse_other_options(context: typer.Context) -> None:
    """None is taken and ignored."""
    defaults = {parameter.name: parameter.default for parameter in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [
        name
        for name, source in sources.items()
        if source is not None and source.name in GIVEN and context.params[name] != defaults.get(name)
    ]
    other = [f"--{name.replace('_', '-')}" for name in given if name not in TAKEN]
    if other:
        raise UsageError(
            f"{other[0]} is no option of a choice between models (--also, --mix): leave it out, or optimise each model "
            "first and give the directories."
        )


def choose_models(
    models: list[str], workload: str, wanted: MixOptions, output: Path, *, resume: bool, dry_run: bool, as_json: bool
) -> None:
    """The smallest model that holds, or a mixture with the large one."""
    from pennyweight import verbs
    from pennyweight.busy import warn_if_busy
    from pennyweight.console import Live
    from pennyweight.inputs import read_member, read_workload
    from pennyweight.mixture import Limit
    from pennyweight.paths import absolute
    from pennyweight.plan.machine import measured_hardware
    from pennyweight.search import Question, mixture_result
    from pennyweight.search.attempts import FIRST_QUESTION, Questions
    from pennyweight.search.fitting import POLICIES
    from pennyweight.search.mixture_question import MixtureQuestion, independent, needed, refuse_mixture

    unknown = [name for name in wanted.policies if name not in POLICIES]
    if unknown:
        raise UsageError(f"--mix {unknown[0]} is unknown: use some of {', '.join(POLICIES)}.")
    if len(models) < 2:
        raise UsageError("A choice between models needs a second one: add it with --also.")
    place = absolute(output)
    if not dry_run:
        verbs.refuse_mixture_output(place, resume=resume)
    with Live() as live:
        questions: dict[str, Question] = {}
        given = {}
        requests = None
        for text in models:
            live.stage(f"Opening {text}")
            opened, deployment = read_member(text, live.progress)
            if requests is None:
                requests = read_workload(
                    workload,
                    wanted.trace_format,
                    num_prompts=wanted.num_prompts,
                    seed=wanted.seed,
                    tokenizer=opened.path,
                )
            name = _free_name(opened.name, questions)
            questions[name] = Question(
                opened,
                requests,
                Budget(),
                streams=wanted.streams,
                seed=wanted.seed,
                engines=wanted.engines,
                schemes=wanted.schemes,
                rounds=wanted.rounds,
                start_timeout=wanted.start_timeout,
            )
            if deployment is not None:
                given[name] = deployment
        first, *others = questions
        question = MixtureQuestion(
            questions[first],
            first,
            {name: questions[name] for name in others},
            Limit(wanted.share),
            given,
            wanted.policies,
            wanted.confidence,
            wanted.judge,
        )
        asked = Questions(question.first.workload, question.first.model.id)
        question = replace(question, share=asked.share(question.as_json()))
        refuse_mixture(question)
        live.line(
            f"Certifying a loss of at most {wanted.share:.1%} takes {needed(question)} independent held-out requests "
            f"even if none is lost; {independent(question)} are there."
        )
        if question.share < FIRST_QUESTION:
            live.line(
                f"Other questions were asked on this workload before: this one may err in {question.error:.2%}, so "
                "that all of them together keep to the confidence."
            )
        if dry_run:
            _list_forms(question, as_json=as_json)
            return
        warn_if_busy(live.line)
        live.stage("Measuring this machine")
        hardware = measured_hardware()
        verbs.make_output(place)
        asked.record(question.as_json())
        evidence, _, said = verbs.run_mixture(question, place, hardware, live, resume=resume)
    for sentence in said:
        typer.echo(sentence)
    report = output / "report.html"
    typer.echo(f"Report: {report}")
    named = shlex.quote(str(output))
    typer.echo(f"Serve it: pw serve {named}    Verify it: pw verify {named}")
    if as_json:
        print(json.dumps(mixture_result.summary(evidence, report)))


def _list_forms(question: MixtureQuestion, *, as_json: bool) -> None:
    """What each model could be served as."""
    from pennyweight.search.members import forms
    from pennyweight.search.question import unmeasured

    found = {}
    for name, one in {question.name: question.first, **question.others}.items():
        if name in question.given:
            found[name] = [question.given[name].short_label]
        else:
            possible = forms(one, unmeasured(), unmodified=not one.schemes)
            found[name] = [candidate.deployment().short_label for candidate in possible]
        typer.echo(f"{name}: {'; '.join(found[name])}")
    typer.echo("The fastest of these is measured for each model. Nothing was built.")
    if as_json:
        print(json.dumps({"models": found, "policies": list(question.policies)}))


def _free_name(name: str, taken: Collection[str]) -> str:
    """Two models in directories of one name are told apart by a number."""
    return next(found for found in (name, *(f"{name}-{n}" for n in range(2, 100))) if found not in taken)
