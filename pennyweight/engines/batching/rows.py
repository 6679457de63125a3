"""Continuous batching for libraries that only run a model's forward pass.

Each running request owns a row of one key-value store. A step takes a piece of one waiting prompt, then decodes one
token for every row. Rows are kept dense: when one ends, the last one takes its place. A library supplies four
operations.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pennyweight.engines.batching.draft import DraftModel, Lengths, beginning
from pennyweight.engines.batching.grammar import Grammar, Grammars
from pennyweight.engines.batching.pace import Pace
from pennyweight.engines.batching.prompt_lookup import PromptLookup
from pennyweight.engines.batching.sampling import Logits, Sampler, log_softmax, most_likely
from pennyweight.engines.batching.settings import RowEngine
from pennyweight.errors import EngineError, EngineRefused
from pennyweight.generation import SCORED_TOPS, Event, Finish, Generation, Score, States, pieces_of

PER_TOKEN = ("tokens", "logprobs", "alternatives")
MIN_PREFIX = 16  # tokens


@dataclass
class Row:
    """A request. `held` are the tokens in its row of the store; `last` is the token to feed next."""

    generation: Generation
    sampler: Sampler
    grammar: Grammar | None = None
    lookup: PromptLookup | None = None
    text: list[int] = field(default_factory=list)  # the prompt and the answer, where something drafts
    held: list[int] = field(default_factory=list)
    last: int = 0
    made: int = 0
    ahead: int = 0  # draft tokens per step
    copied: int = 0  # tokens of the prompt that another row held

    @property
    def left(self) -> int:
        """Tokens that it may still generate."""
        return self.generation.max_tokens - self.made

    @property
    def greedy(self) -> bool:
        """Is its next token the likeliest one, whatever came before?"""
        return self.grammar is None and self.sampler.greedy

    def take(self, logits: Logits, draft: int | None = None, tolerance: float = 0.0) -> Event:
        """Sample the next token and return its event. An end token itself is not part of the answer. Log-probabilities
        are the model's own, whatever a schema forbids. A greedy answer takes a `draft` whose probability is at least
        (1 - tolerance) times that of the likeliest token."""
        if tolerance and draft is not None and self.greedy and logits[draft] >= logits.max() + math.log1p(-tolerance):
            return self.took(*self.sampler.reported(draft, logits))
        try:
            allowed = None if self.grammar is None else self.grammar.masked(logits)
        except EngineError as error:
            return Event(self.generation.id, finish="refused", error=str(error))  # the form is at fault
        return self.took(*self.sampler.draw(logits, allowed))

    def took(self, token: int, logprob: float, alternatives: list[tuple[int, float]]) -> Event:
        """The event of a token that has been chosen."""
        self.last = token
        self.text.append(token)
        if self.lookup is not None:
            self.lookup.extend((token,))
        self.made += 1
        if token in self.generation.stop_tokens:
            return Event(self.generation.id, finish="stop")
        if self.grammar is not None:
            self.grammar.take(token)
        finish: Finish | None = "length" if self.made >= self.generation.max_tokens else None
        return Event(self.generation.id, (token,), (logprob,), (alternatives,), finish)


class RowRuntime(ABC):
    """The loop; a subclass supplies the operations, the draft model's runtime if there is one, and what compiles
    schemas for its tokenizer. The store's rows: first the running ones without gaps, then the one whose prompt is being
    processed, from `max_num_seqs` on the ended ones kept as a prefix cache, and at last a spare one for scores."""

    def __init__(
        self, settings: RowEngine, draft: RowRuntime | None, grammars: Grammars | None = None, *, vocabulary: int
    ) -> None:
        self._vocabulary = vocabulary  # logits at one position
        self._settings = settings
        self._grammars = grammars
        self._draft = None if draft is None else DraftModel(draft)
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._filling: Row | None = None
        self._kept = KeptRows(range(settings.max_num_seqs, settings.slots))
        self._drafts = draft is not None or bool(settings.speculative_method)
        self._pace = Pace()

    chooses_on_device = False  # `likeliest` is faster than moving the logits
    verifies_rows = False  # drafts of several rows, in one forward

    @abstractmethod
    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits:
        """Put tokens into a row from position `start` on; logits (n, vocabulary) after each or after the last one."""

    def states(self, row: int, tokens: Sequence[int], start: int) -> Logits:
        """As `extend`, but the last hidden states, after the final norm: (n, width)."""
        raise EngineRefused(f"{self._settings.name} gives no states of {len(tokens)} tokens in {row} from {start} on.")

    @abstractmethod
    def decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits:
        """One token for each of the first rows, which hold `lengths` positions; logits (rows, vocabulary)."""

    def likeliest(self, tokens: Sequence[int], lengths: Lengths, count: int) -> list[list[tuple[int, float]]]:
        """As `decode`, but of each row the `count` likeliest tokens with their log-probabilities, the likeliest first.
        A library on a GPU finds them there: moving the logits would take longer than making them."""
        return most_likely(log_softmax(self.decode(tokens, lengths)), count)

    def verify(self, fed: Sequence[Sequence[int]], lengths: Lengths) -> Sequence[Logits]:
        """Several tokens for each of the first rows, which hold `lengths` positions; of each row the logits after every
        one of its tokens: (tokens, vocabulary)."""
        raise EngineRefused(f"{self._settings.name} verifies no drafts of {len(fed)} rows that hold {lengths}.")

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row over another's."""
        self._move(source, target, length)

    @abstractmethod
    def _move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row over another's."""

    def submit(self, generation: Generation) -> None:
        self._waiting.append(Row(generation, Sampler(generation), self._grammar(generation)))

    def _grammar(self, generation: Generation) -> Grammar | None:
        if generation.form is None:
            return None
        if self._grammars is None:
            raise EngineRefused(f"{self._settings.name} cannot hold this model's answers to a form: remove it.")
        return self._grammars.compile(generation.form, generation.stop_tokens)

    def step(self) -> list[Event]:
        events: list[Event] = []
        if self._filling is None and self._waiting and len(self._rows) < self._settings.max_num_seqs:
            self._admit(self._waiting.popleft())
        if self._filling is not None:
            events.extend(self._fill(self._filling))
        if self._rows:
            events.extend(self._speculate() or self._advance())
        return events

    def cancel(self, generation_id: str) -> None:
        self._waiting = deque(row for row in self._waiting if row.generation.id != generation_id)
        if self._filling is not None and self._filling.generation.id == generation_id:
            self._filling = None
        for index, row in enumerate(self._rows):
            if row.generation.id == generation_id:
                self._release(index)
                return

    def score(self, tokens: Sequence[int], start: int) -> Iterator[Score]:
        """In the spare row after all others, as a long prompt is read."""
        for begin, end in pieces_of(len(tokens) - 1, self._vocabulary):
            logits = self.extend(self._settings.slots, tokens[begin:end], begin, every=True)
            yield scored(logits, tokens[begin : end + 1], max(0, start - 1 - begin))

    def embed(self, tokens: Sequence[int]) -> Iterator[States]:
        """In the spare row, as `score`."""
        for begin, end in pieces_of(len(tokens), self._vocabulary):
            yield states_of(self.states(self._settings.slots, tokens[begin:end], begin))

    def close(self) -> None:
        self._rows.clear()

    def _admit(self, row: Row) -> None:
        """The longest prompt prefix that a kept or running row holds is copied instead of computed."""
        generation = row.generation
        if self._drafts:
            row.text = list(generation.prompt)
            row.ahead = self._settings.num_speculative_tokens
        if self._drafts and self._draft is None:
            row.lookup = PromptLookup(self._settings.prompt_lookup_max)
            row.lookup.extend(generation.prompt)
        if self._settings.enable_prefix_caching:
            running = [(index, other.held) for index, other in enumerate(self._rows)]
            source, length = longest_common_prefix(generation.prompt, [*running, *self._kept])
            if length:
                self._move(source, len(self._rows), length)
                row.held = list(generation.prompt[:length])
                row.copied = length
        self._filling = row

    def _fill(self, row: Row) -> list[Event]:
        """Process the next chunk of the prompt; after the last chunk the row starts decoding."""
        prompt, begin = row.generation.prompt, len(row.held)
        piece = prompt[begin : begin + (self._settings.max_num_batched_tokens or len(prompt))]
        logits = self.extend(len(self._rows), piece, begin, every=False)
        row.held.extend(piece)
        if len(row.held) < len(prompt):
            return []
        self._filling = None
        self._rows.append(row)
        event = replace(row.take(logits[-1]), cached=row.copied)
        if event.finish:
            self._release(len(self._rows) - 1)
        return [event]

    def _advance(self) -> list[Event]:
        began, count = time.perf_counter(), len(self._rows)
        lengths = np.array([len(row.held) for row in self._rows])
        tokens = [row.last for row in self._rows]
        for row in self._rows:
            row.held.append(row.last)
        if self.chooses_on_device and all(row.greedy for row in self._rows):
            wanted = [row.generation.top_logprobs for row in self._rows]
            best = self.likeliest(tokens, lengths, max(1, *(count or 0 for count in wanted)))
            events = [
                row.took(tops[0][0], 0.0 if count is None else tops[0][1], tops[: count or 0])
                for row, count, tops in zip(self._rows, wanted, best, strict=True)
            ]
        else:
            logits = self.decode(tokens, lengths)
            events = [row.take(row_logits) for row, row_logits in zip(self._rows, logits, strict=True)]
        for index in range(len(events) - 1, -1, -1):
            if events[index].finish:
                self._release(index)
        if self._drafts:
            self._pace.take(count, speculated=False, tokens=count, seconds=time.perf_counter() - began)
        return events

    def _speculate(self) -> list[Event]:
        """One speculative step of all rows: draft tokens that match what the model samples are accepted. A row whose
        draft was not accepted whole gets a shorter one next. Empty where nothing is drafted, or where steps without
        drafts are faster at this number of rows."""
        rows, alone = self._rows, len(self._rows) == 1
        if not self._drafts or not (alone or (self.verifies_rows and self._pace.speculates(len(rows)))):
            return []
        began = time.perf_counter()
        drafts = self._proposed(rows)
        if not any(drafts):
            return []
        fed = [[row.last, *draft] for row, draft in zip(rows, drafts, strict=True)]
        lengths = np.array([len(row.held) for row in rows])
        found = [self.extend(0, fed[0], int(lengths[0]), every=True)] if alone else self.verify(fed, lengths)
        taken = [self._accepted(*one) for one in zip(rows, fed, found, strict=True)]
        for index in range(len(taken) - 1, -1, -1):
            if taken[index].finish:
                self._release(index)
        tokens = sum(len(event.tokens) for event in taken)
        self._pace.take(len(taken), speculated=True, tokens=tokens, seconds=time.perf_counter() - began)
        return taken

    def _proposed(self, rows: Sequence[Row]) -> list[list[int]]:
        most = [min(row.ahead, row.left - 1) for row in rows]
        if self._draft is not None:
            return self._draft.propose([row.text for row in rows], most)
        return [row.lookup.propose(count) if row.lookup else [] for row, count in zip(rows, most, strict=True)]

    def _accepted(self, row: Row, fed: Sequence[int], found: Logits) -> Event:
        """The tokens up to the first that the model chooses otherwise, and that one."""
        events: list[Event] = []
        for token, draft, logits in zip(fed, [*fed[1:], None], found, strict=True):
            if events and token != row.last:
                break
            row.held.append(token)
            events.append(row.take(logits, draft, self._settings.draft_tolerance))
            if events[-1].finish:
                break
        drafted, right = len(fed) - 1, len(events) - 1
        if drafted:
            row.ahead = min(self._settings.num_speculative_tokens, 2 * row.ahead) if right == drafted else right + 1
        return joined(events)

    def _release(self, index: int) -> None:
        row = self._rows[index]
        if self._settings.enable_prefix_caching:
            self._move(index, self._kept.take(row.held), len(row.held))
        last = len(self._rows) - 1
        if self._draft is not None:
            self._draft.release(index, last)
        if index != last:
            self._move(last, index, len(self._rows[last].held))
            self._rows[index] = self._rows[last]
        self._rows.pop()
        if self._filling is not None:
            self._move(last + 1, last, len(self._filling.held))


class KeptRows:
    """Ended rows and their tokens. A row that is a prefix of the new one is replaced, else the oldest."""

    def __init__(self, rows: Iterable[int]) -> None:
        self._rows: deque[tuple[int, list[int]]] = deque((row, []) for row in rows)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return iter(self._rows)

    def take(self, tokens: Sequence[int]) -> int:
        """The row to store these tokens in."""
        place = next((n for n, (_, held) in enumerate(self._rows) if tokens[: len(held)] == held), 0)
        row, _ = self._rows[place]
        del self._rows[place]
        self._rows.append((row, list(tokens)))
        return row


def joined(events: Sequence[Event]) -> Event:
    """Several events of one request merged into one."""
    tokens, logprobs, alternatives = ([x for event in events for x in getattr(event, name)] for name in PER_TOKEN)
    return Event(events[-1].id, tokens, logprobs, alternatives, events[-1].finish)


def longest_common_prefix(prompt: Sequence[int], held: Iterable[tuple[int, Sequence[int]]]) -> tuple[int, int]:
    """The row with the longest common prefix with the prompt, and that prefix's length: at most the prompt less one
    token, whose logits are needed, and 0 below `MIN_PREFIX`, where a copy does not pay."""
    best, longest = 0, MIN_PREFIX - 1
    for row, tokens in held:
        most = min(len(prompt) - 1, len(tokens))
        if most <= longest:
            continue
        same = beginning(prompt[:most], tokens)
        if same > longest:
            best, longest = row, same
    return (best, longest) if longest >= MIN_PREFIX else (0, 0)


def scored(logits: Logits, tokens: Sequence[int], first: int) -> Score:
    """From logits (n, vocabulary) after each of the first n of n + 1 tokens: the scores of those that follow, the first
    `first` left out."""
    if first >= len(logits):
        return Score((), ())
    logprobs = log_softmax(logits[first:])
    own = np.take_along_axis(logprobs, np.asarray(tokens[first + 1 :])[:, None], axis=-1)[:, 0]
    return Score(own.tolist(), most_likely(logprobs, SCORED_TOPS))


def states_of(states: Logits) -> States:
    return States(len(states), states.sum(axis=0, dtype=np.float64).tolist(), states[-1].tolist())
