"""Search: model + workload + budget -> study. loop.py is the search loop, question.py its input and its result."""

from pennyweight.search.question import Answer, Listener, Question
from pennyweight.search.starting import start

__all__ = ["Answer", "Listener", "Question", "start"]
