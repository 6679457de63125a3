"""Model + workload + budget -> Study: loop.py has the loop, question.py what it is asked and what it answers."""

from pennyweight.search.question import Answer, Listener, Question
from pennyweight.search.starting import start

__all__ = ["Answer", "Listener", "Question", "start"]
