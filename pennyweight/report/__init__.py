"""Study and evidence -> one page, and the same in sentences."""

from pennyweight.report.page import write
from pennyweight.report.words import nearest_sentence, sentences

__all__ = ["nearest_sentence", "sentences", "write"]
