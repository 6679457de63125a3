"""Set up a search with a study on disk and services on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pennyweight.hardware import Hardware
from pennyweight.journal import STUDY_FILE, Journal
from pennyweight.plan.cost import Load
from pennyweight.search.attempts import Attempts
from pennyweight.search.baseline import BaselineAnswers
from pennyweight.search.bench import ServiceBench
from pennyweight.search.loop import SCREEN_LOOK, Search
from pennyweight.search.question import Listener, Question, refuse, space_of
from pennyweight.search.translation import AnswerTranslation
from pennyweight.search.trials import Trials
from pennyweight.tokenizer import Tokenizer


def start(
    question: Question, directory: Path, hardware: Hardware, listener: Listener, *, resume: bool = False
) -> Search:
    """A search that writes its results to `directory`. Raises before anything is built if the question cannot be
    answered."""
    space = space_of(question, hardware)
    refuse(question, space, hardware)
    tuning, held_out = question.workload.split(question.seed)
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
        Attempts.on(question.workload, held_out, question.budget.confidence),
    )
