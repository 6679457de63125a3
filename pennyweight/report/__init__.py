"""Study and evidence -> one HTML page, and the result in sentences."""

from pennyweight.report.mixture import write_mixture
from pennyweight.report.page import write
from pennyweight.report.phrasing import failure_sentence, nearest_sentence, sentences
from pennyweight.report.sweep import write_sweep

__all__ = ["failure_sentence", "nearest_sentence", "sentences", "write", "write_mixture", "write_sweep"]
