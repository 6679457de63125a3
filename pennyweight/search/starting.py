"""A search of the real world, put together: a study on disk, services on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pennyweight.hardware import Hardware
from pennyweight.journal import STUDY_FILE, Journal
from pennyweight.plan.cost import Load
from pennyweight.search.baseline import BaselineAnswers
from pennyweight.search.bench import ServiceBench
from pennyweight.search.loop import SCREEN_LOOK, Search
from pennyweight.search.question import Listener, Question, refuse, space_of
from pennyweight.search.spelling import Spelling
from pennyweight.search.trials import Trials
from pennyweight.tokenizer import Tokenizer


def start(
    question: Question, directory: Path, hardware: Hardware, listener: Listener, *, resume: bool = False
) -> Search:
    """A search that keeps all it does in `directory`. Raises before anything is spent if the question cannot be
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
        Spelling(question.model.path),
    )
