"""RowRuntime: whatever else is running, a request gets exactly the tokens that it would get alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.engines.base import Runtime
from pennyweight.engines.batching.draft import Lengths
from pennyweight.engines.batching.pace import Pace
from pennyweight.engines.batching.rows import MIN_PREFIX, KeptRows, RowRuntime, longest_common_prefix
from pennyweight.engines.batching.sampling import Logits, log_softmax
from pennyweight.engines.batching.settings import RowEngine
from pennyweight.errors import EngineRefused
from pennyweight.generation import PIECE_VALUES, SCORED_TOPS, Generation, joined_score

VOCABULARY = 12
END = 0


def logits_after(history: Sequence[int]) -> Logits:
    seed = zlib.crc32(repr([int(token) for token in history[-2:]] + [len(history) // 9]).encode())
    return np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32)


@dataclass(frozen=True)
class FakeEngine(RowEngine):
    name: ClassVar[str] = "fake"

    def load(self, directory: Path) -> Runtime:
        raise NotImplementedError


class Fake(RowRuntime):
    """A model whose next token depends on all that its row of the store holds; it checks what the loop tells it. Its
    answers repeat themselves, so that guessing ahead has something to find."""

    def __init__(self, max_rows: int, draft: Fake | None = None, **settings: Any) -> None:
        super().__init__(FakeEngine(max_num_seqs=max_rows, **settings), draft, vocabulary=PIECE_VALUES // 16)
        self.limit = max_rows
        self.slots = FakeEngine(max_num_seqs=max_rows, **settings).slots
        self.store: dict[int, list[int]] = {}
        self.widths: list[int] = []
        self.verified: list[int] = []
        self.extended: list[int] = []

    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits:
        assert (0 <= row < self.limit or row == self.slots) and tokens and start <= len(self.store.get(row, []))
        self.extended.append(len(tokens))
        held = self.store[row] = [*self.store.get(row, [])[:start], *tokens]
        made = [logits_after(held[: start + n + 1]) for n in range(len(tokens))]
        return np.stack(made if every else made[-1:])

    def decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits:
        assert len(tokens) == len(lengths) <= self.limit
        self.widths.append(len(tokens))
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            assert len(self.store[row]) >= length  # what was guessed in vain may stand behind
            self.store[row][length:] = [token]
        return np.stack([logits_after(self.store[row]) for row in range(len(tokens))])

    def verify(self, fed: Sequence[Sequence[int]], lengths: Lengths) -> Sequence[Logits]:
        assert 1 < len(fed) == len(lengths) <= self.limit
        self.verified.append(len(fed))
        found = []
        for row, (tokens, length) in enumerate(zip(fed, lengths, strict=True)):
            held = self.store[row] = [*self.store.get(row, [])[:length], *tokens]
            found.append(np.stack([logits_after(held[: length + n + 1]) for n in range(len(tokens))]))
        return found

    def _move(self, source: int, target: int, length: int) -> None:
        assert source != target and 0 <= target < self.slots and length <= len(self.store.get(source, []))
        self.store[target] = self.store[source][:length]

    def kernels(self) -> list[str]:
        return []


def collect(runtime: Fake, into: dict[str, list[int]], finished: dict[str, str]) -> None:
    for event in runtime.step():
        assert event.id not in finished, "nothing may follow the last event"
        into.setdefault(event.id, []).extend(event.tokens)
        if event.finish:
            finished[event.id] = event.finish


def alone(generation: Generation) -> tuple[list[int], str]:
    runtime, tokens, finished = Fake(1), {generation.id: []}, {}
    runtime.submit(generation)
    while not finished:
        collect(runtime, tokens, finished)
    return tokens[generation.id], finished[generation.id]


def generation(name: str, prompt: Sequence[int] = (1, 2), max_tokens: int = 5, **more: object) -> Generation:
    return Generation(name, tuple(prompt), max_tokens, **more)  # type: ignore[arg-type]


asked = st.builds(
    lambda prompt, length, seed, stops: (prompt, length, seed, stops),
    st.lists(st.integers(1, 3), min_size=1, max_size=40),
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(0, 99)),
    st.booleans(),
)


arriving = st.tuples(asked, st.integers(0, 8), st.one_of(st.none(), st.integers(0, 10)))


class Wrong(Fake):
    """A draft that is wrong every third time."""

    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits:
        return self.misled(super().extend(row, tokens, start, every=every))

    def decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits:
        return self.misled(super().decode(tokens, lengths))

    def misled(self, logits: Logits) -> Logits:
        return np.roll(logits, 1, axis=-1) if len(self.store[0]) % 3 == 0 else logits


class Together(Fake):
    verifies_rows = True


class WrongTogether(Wrong):
    verifies_rows = True

    def verify(self, fed: Sequence[Sequence[int]], lengths: Lengths) -> Sequence[Logits]:
        return [self.misled(logits) for logits in super().verify(fed, lengths)]


class Always(Pace):
    def speculates(self, rows: int) -> bool:
        return True


settings = st.fixed_dictionaries(
    {"max_num_batched_tokens": st.sampled_from([0, 1, 3]), "enable_prefix_caching": st.booleans()},
    optional={"speculative_method": st.just("ngram"), "num_speculative_tokens": st.integers(1, 5)},
)


@given(
    requests=st.lists(arriving, min_size=1, max_size=8),
    max_rows=st.integers(1, 4),
    presets=settings,
    drafted=st.sampled_from([None, Fake, Wrong, Together, WrongTogether]),
    together=st.booleans(),
)
def test_every_request_gets_the_tokens_it_would_get_alone(
    requests: list, max_rows: int, presets: dict, drafted: type[Fake] | None, together: bool
) -> None:
    wanted = []
    for number, ((prompt, length, seed, stops), arrives, cancelled_after) in enumerate(requests):
        made = generation(
            str(number),
            prompt,
            length,
            seed=seed,
            temperature=0.0 if seed is None else 1.0,
            stop_tokens=(END,) if stops else (),
        )
        leaves = None if cancelled_after is None else arrives + cancelled_after
        wanted.append((made, arrives, leaves))
    draft = drafted and drafted(max_rows)
    runtime, tokens, finished, cancelled = (Together if together else Fake)(max_rows, draft, **presets), {}, {}, set()
    if together:
        runtime._pace = Always()
    for now in range(200):
        for made, arrives, leaves in wanted:
            if arrives == now:
                runtime.submit(made)
            if leaves == now and made.id not in finished:
                runtime.cancel(made.id)
                cancelled.add(made.id)
        before = {name: len(got) for name, got in tokens.items() if name in cancelled}
        collect(runtime, tokens, finished)
        assert all(len(tokens[name]) == count for name, count in before.items())
    for made, _, _ in wanted:
        expected, how = alone(made)
        got = tokens.get(made.id, [])
        if made.id in cancelled:
            assert got == expected[: len(got)] and made.id not in finished
        else:
            assert (got, finished[made.id]) == (expected, how)


def test_a_request_that_comes_later_joins_the_running_batch() -> None:
    runtime, tokens, finished = Fake(4), {}, {}
    runtime.submit(generation("first", max_tokens=10))
    collect(runtime, tokens, finished)
    runtime.submit(generation("second", (3,), max_tokens=2))
    collect(runtime, tokens, finished)
    assert "second" in tokens and "first" not in finished
    assert runtime.widths[-1] == 2


def test_no_more_rows_run_than_allowed_and_the_rest_wait_their_turn() -> None:
    runtime, tokens, finished = Fake(2), {}, {}
    for number in range(5):
        runtime.submit(generation(str(number), (number + 1,), max_tokens=4))
    for _ in range(40):
        collect(runtime, tokens, finished)
    assert max(runtime.widths) == 2
    assert {name: len(got) for name, got in tokens.items()} == dict.fromkeys("01234", 4)


def test_a_waiting_request_can_be_cancelled() -> None:
    runtime, tokens, finished = Fake(1), {}, {}
    runtime.submit(generation("running"))
    runtime.submit(generation("waiting"))
    runtime.cancel("waiting")
    for _ in range(20):
        collect(runtime, tokens, finished)
    assert "waiting" not in tokens and finished == {"running": "length"}


def test_cancelling_a_running_request_makes_room_at_once() -> None:
    runtime, tokens, finished = Fake(1), {}, {}
    runtime.submit(generation("long", max_tokens=1000))
    runtime.submit(generation("next", (5,)))
    collect(runtime, tokens, finished)
    assert "next" not in tokens
    runtime.cancel("long")
    collect(runtime, tokens, finished)
    assert "next" in tokens


def test_cancelling_what_is_not_there_does_nothing() -> None:
    runtime = Fake(1)
    runtime.cancel("nobody")
    assert runtime.step() == []


def test_an_end_token_ends_the_answer_and_is_no_part_of_it() -> None:
    prompt = next((n,) for n in range(1, 500) if int(logits_after((n,)).argmax()) == END)
    assert alone(generation("g", prompt, stop_tokens=(END,))) == ([], "stop")
    assert alone(generation("g", prompt))[0][0] == END


def test_a_score_is_the_log_softmax_at_the_tokens_own_places() -> None:
    tokens = [4, 7, 2, 9]
    score = joined_score(Fake(1).score(tokens, 1))
    expected = [log_softmax(logits_after(tokens[: n + 1])) for n in range(3)]
    assert score.logprobs == pytest.approx([float(row[t]) for row, t in zip(expected, tokens[1:], strict=True)])
    for tops, row in zip(score.tops, expected, strict=True):
        assert [token for token, _ in tops] == [int(token) for token in (-row).argsort(kind="stable")[:SCORED_TOPS]]
        assert [logprob for _, logprob in tops] == pytest.approx(sorted(map(float, row), reverse=True)[:SCORED_TOPS])


@pytest.mark.parametrize("start", [1, 2, 3])
def test_a_score_begins_where_it_is_asked_to(start: int) -> None:
    whole, part = (joined_score(Fake(1).score([4, 7, 2, 9], first)) for first in (1, start))
    assert list(part.logprobs) == list(whole.logprobs[start - 1 :])
    assert list(part.tops) == list(whole.tops[start - 1 :])


def finish(runtime: Fake, *asked: Generation) -> dict[str, list[int]]:
    tokens, finished = {}, {}
    for made in asked:
        runtime.submit(made)
    while len(finished) < len(asked):
        collect(runtime, tokens, finished)
    return tokens


def test_a_prompt_is_taken_in_pieces_while_others_run_on() -> None:
    runtime, tokens, finished = Fake(2, max_num_batched_tokens=4), {}, {}
    runtime.submit(generation("running", max_tokens=50))
    collect(runtime, tokens, finished)
    runtime.submit(generation("long", range(1, 11), max_tokens=2))
    before = len(tokens["running"])
    collect(runtime, tokens, finished)
    collect(runtime, tokens, finished)
    assert "long" not in tokens and len(tokens["running"]) == before + 2
    collect(runtime, tokens, finished)
    assert tokens["long"] and runtime.extended == [2, 4, 4, 2]


def test_what_a_kept_row_holds_is_not_computed_again() -> None:
    runtime, prompt = Fake(2, enable_prefix_caching=True), [1, 2, 3] * 10
    made = finish(runtime, generation("first", prompt))["first"]
    again = [*prompt, *made[:-1], 4]
    assert finish(runtime, generation("next", again))["next"] == alone(generation("next", again))[0]
    assert runtime.extended == [30, 1]
    assert finish(runtime, generation("same", prompt))["same"] == made
    assert runtime.extended == [30, 1, 1]  # the last token's logits are needed


def test_guesses_that_come_true_save_steps() -> None:
    plain, guessing = Fake(1), Fake(1, speculative_method="ngram", num_speculative_tokens=4)
    asked = generation("g", [1, 2, 3] * 10, max_tokens=60)
    assert finish(plain, asked) == finish(guessing, asked)
    assert len(guessing.widths) + len(guessing.extended) < len(plain.widths) + len(plain.extended)


def test_a_draft_that_is_right_saves_steps_and_computes_nothing_twice() -> None:
    draft = Fake(1)
    runtime = Fake(1, draft, num_speculative_tokens=4)
    asked = generation("g", [1, 2, 3], max_tokens=21)
    assert finish(runtime, asked)["g"] == alone(asked)[0]
    assert runtime.extended == [3, 5, 5, 5, 5] and runtime.widths == []
    assert sum(draft.extended) + len(draft.widths) < 3 + 21 + 4


def test_no_guess_is_made_in_company_where_a_library_verifies_one_row_only() -> None:
    runtime = Fake(2, speculative_method="ngram")
    finish(runtime, *(generation(str(n), [n, 2, 3] * 10, max_tokens=20) for n in (1, 2)))
    assert runtime.extended == [30, 30] and not runtime.verified


def test_drafts_of_several_rows_are_verified_in_one_forward() -> None:
    draft = Together(4)
    runtime = Together(4, draft, num_speculative_tokens=4)
    runtime._pace = Always()
    asked = [generation(str(n), [n, 2, 3], max_tokens=13 + n) for n in range(4)]
    assert finish(runtime, *asked) == {made.id: alone(made)[0] for made in asked}
    assert runtime.verified and len(runtime.verified) + len(runtime.widths) < 12, "a step yields several tokens a row"
    assert len(draft.widths) > 0, "the draft decodes all rows in one forward, too"


@pytest.mark.parametrize("tolerance", [0.0, 0.5, 0.999])
def test_a_draft_is_kept_where_it_is_likely_enough(tolerance: float) -> None:
    """Along what is answered, each token is within -ln(1 - tolerance) nats of the likeliest; a larger tolerance takes
    fewer steps, and a sampled request is answered as without."""
    more: dict[str, Any] = {"speculative_method": "ngram", "num_speculative_tokens": 4}
    runtime = Together(2, Wrong(2), draft_tolerance=tolerance, **more)
    runtime._pace = Always()
    asked = [generation("g", max_tokens=40), generation("s", max_tokens=40, temperature=0.7, seed=3)]
    answers = finish(runtime, *asked)
    assert answers["s"] == alone(asked[1])[0]
    history, shortfalls = [1, 2], []
    for token in answers["g"]:
        logits = logits_after(history)
        shortfalls.append(float(logits.max() - logits[token]))
        history.append(token)
    assert max(shortfalls) <= -np.log1p(-tolerance) + 1e-6
    assert (max(shortfalls) > 0) == (tolerance == 0.999) or 0 < tolerance < 0.9


def test_a_tolerance_without_drafts_is_refused() -> None:
    with pytest.raises(EngineRefused, match="needs speculative_method"):
        FakeEngine(draft_tolerance=0.1)
    with pytest.raises(EngineRefused, match="0 \\(lossless\\) to below 1"):
        FakeEngine(draft_tolerance=1.0, speculative_method="ngram")


def test_the_longest_beginning_leaves_a_token_to_compute_and_is_worth_a_copy() -> None:
    long, short = list(range(40)), list(range(MIN_PREFIX))
    assert longest_common_prefix(tuple(long), [(7, short), (8, long)]) == (8, 39)
    assert longest_common_prefix(tuple(short), [(8, long)]) == (0, 0)
    assert longest_common_prefix((9, *long), [(8, long)]) == (0, 0)


def test_a_kept_row_that_only_begins_another_makes_room_for_it() -> None:
    kept = KeptRows(range(4, 7))
    assert [kept.take([1]), kept.take([2, 2]), kept.take([3])] == [4, 5, 6]
    assert kept.take([2, 2, 2]) == 5
    assert kept.take([9]) == 4


def test_a_long_score_comes_in_pieces_between_steps() -> None:
    runtime, tokens = Fake(1), [n % 11 for n in range(50)]  # 16 positions a piece
    runtime.submit(generation("g", (3, 4), max_tokens=6))
    said: dict[str, list[int]] = {}
    pieces = []
    for piece in runtime.score(tokens, 20):
        pieces.append(piece)
        collect(runtime, said, {})
    assert [len(piece.logprobs) for piece in pieces] == [0, 13, 16, 1]
    whole = joined_score(Fake(1).score(tokens, 1))
    assert list(joined_score(pieces).logprobs) == pytest.approx(list(whole.logprobs)[19:])
    assert len(said["g"]) >= 4
