"""Set up a search with a study on disk and services on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pennyweight.console import duration
from pennyweight.errors import UsageError
from pennyweight.hardware import Hardware
from pennyweight.journal import STUDY_FILE, Journal
from pennyweight.measure.proof.power import undecidable
from pennyweight.plan.cost import Load
from pennyweight.search.attempts import Attempts
from pennyweight.search.baseline import BaselineAnswers
from pennyweight.search.bench import ServiceBench
from pennyweight.search.dryrun import planned
from pennyweight.search.loop import SCREEN_LOOK, Search
from pennyweight.search.question import Listener, Question, refuse, space_of
from pennyweight.search.translation import AnswerTranslation
from pennyweight.search.trials import Trials
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import Workload


def start(
    question: Question, directory: Path, hardware: Hardware, listener: Listener, *, resume: bool = False
) -> Search:
    """A search that writes its results to `directory`. Raises before anything is built if the question cannot be
    answered."""
    space = space_of(question, hardware)
    refuse(question, space, hardware)
    tuning, held_out = question.workload.split(question.seed)
    attempts = Attempts.on(question.workload, held_out, question.budget.confidence, baseline=question.model.id)
    _refuse_used_up(question, held_out, attempts)
    if not resume:
        seconds = planned(question, space, hardware).seconds
        listener.stage(
            f"Predicted: about {duration(seconds)} if every candidate is measured; hopeless ones are skipped"
        )
    study = Journal(directory / STUDY_FILE, question.as_json(), resume=resume)
    load = Load(100.0, float(np.mean([request.max_tokens for request in tuning.requests])), question.streams)
    look = tuning.take(SCREEN_LOOK, question.seed)
    answers = BaselineAnswers(tuning, held_out, tuning_look=look, directory=directory, resume=resume)
    answers.read_prompts(Tokenizer(question.model.path))
    return Search(
        Trials(question, study, space, hardware, listener, load),
        ServiceBench(question, directory, listener),
        answers,
        AnswerTranslation(question.model.path),
        attempts,
    )


def _refuse_used_up(question: Question, held_out: Workload, attempts: Attempts) -> None:
    """Raise where so many attempts were made on these requests that one more could never pass."""
    if attempts.accepted_any or attempts.following == 1:
        return
    hopeless = undecidable(question.budget, held_out.requests, attempts.following)
    if hopeless:
        raise UsageError(
            f"{attempts.following - 1} attempts were made on {question.workload.name!r} without anything accepted, and "
            f"each leaves less error for the next. {hopeless}"
        )
