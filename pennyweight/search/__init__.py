"""Model + workload + budget -> Study: loop.py has the loop, question.py what it is asked and what it answers."""

from pennyweight.search.loop import Search
from pennyweight.search.question import Answer, Listener, Question

__all__ = ["Answer", "Listener", "Question", "Search"]
