"""Study and evidence -> one page, and the same in sentences."""

from pennyweight.report.page import write
from pennyweight.report.words import failure_sentence, nearest_sentence, sentences

__all__ = ["failure_sentence", "nearest_sentence", "sentences", "write"]
