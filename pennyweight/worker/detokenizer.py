"""Tokens to text while they arrive: whole characters only, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from pennyweight.tokenizer import Tokenizer

CONTEXT = 4  # tokens


class TextStream:
    """`push` returns the text that is safe to send. After a stop string was met, `stopped` is true.

    The pieces add up to the decoded answer, cut before the first stop string. Where it goes on from a text
    (`goes_on_from`, that text's tokens) it keeps its leading blank, which some tokenizers drop at a text's begin.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        goes_on_from: Sequence[int] = (),
        with_control_tokens: bool = False,
    ) -> None:
        self._backend = tokenizer.backend
        self._decoder = _decoder(tokenizer, goes_on_from, with_control_tokens)
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None

    def push(self, tokens: Sequence[int]) -> str:
        pieces = (self._decoder.step(self._backend, token) for token in tokens)
        fresh = "".join(piece for piece in pieces if piece)
        return fresh if not self._stop else self._cut(fresh)

    def finish(self) -> str:
        """What was held back because it could have begun a stop string."""
        held, self._held = self._held, ""
        return "" if self.stopped else held

    def _cut(self, fresh: str) -> str:
        if self.stopped:
            return ""
        text = self._held + fresh
        met = [(place + len(stop), place, stop) for stop in self._stop if (place := text.find(stop)) >= 0]
        if met:
            self._held = ""
            _, begin, self.stopped_by = min(met)  # the one that is whole first, as when the text came letter by letter
            return text[:begin]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _decoder(tokenizer: Tokenizer, before: Sequence[int], with_control_tokens: bool) -> DecodeStream:
    """Begins after the last few tokens of `before` if they end with a whole character, else afresh."""
    skip = not with_control_tokens
    last = list(before[-CONTEXT:])
    if not last or tokenizer.decode(last).endswith("\N{REPLACEMENT CHARACTER}") or not tokenizer.decode(last[-1:]):
        return DecodeStream(skip_special_tokens=skip)
    return DecodeStream(ids=last, skip_special_tokens=skip)
