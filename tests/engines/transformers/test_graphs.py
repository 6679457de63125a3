"""The steps that a GPU records, run here without recording: their padding changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight.engines.transformers.graphs import rounded_up
from pennyweight.engines.transformers.settings import Transformers
from pennyweight.generation import Event, Generation

PROMPTS = [[5, 9, 2, 7], [3, 3, 8], [11, 4, 6, 1, 2, 9, 10], [7], [1, 2, 3, 4, 5]]


def answers(runtime: object) -> dict[str, list[tuple[int, float]]]:
    """All at once, of different lengths, so that rows end and move while others run."""
    made: dict[str, list[tuple[int, float]]] = {str(number): [] for number in range(len(PROMPTS))}
    for number, prompt in enumerate(PROMPTS):
        runtime.submit(Generation(str(number), prompt, max_tokens=3 + 4 * number, top_logprobs=2))  # type: ignore[attr-defined]
    for _ in range(40):
        event: Event
        for event in runtime.step():  # type: ignore[attr-defined]
            made[event.id].extend(zip(event.tokens, event.logprobs, strict=True))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 3, 8])
def test_padded_steps_answer_as_plain_ones(tiny_checkpoint: Path, rows: int) -> None:
    plain = Transformers(max_num_seqs=rows, device="cpu").load(tiny_checkpoint)
    padded = Transformers(max_num_seqs=rows, device="cpu").load(tiny_checkpoint)
    padded._graphs = padded._new_graphs()  # type: ignore[attr-defined]
    padded.chooses_on_device = True  # type: ignore[attr-defined]
    expected, got = answers(plain), answers(padded)
    assert all(len(expected[str(number)]) == 3 + 4 * number for number in range(len(PROMPTS)))
    for number, pairs in expected.items():
        assert [token for token, _ in pairs] == [token for token, _ in got[number]]
        assert [x for _, x in pairs] == pytest.approx([x for _, x in got[number]], abs=1e-4)


@pytest.mark.parametrize(
    "number, least, padded", [(1, 1, 1), (3, 1, 4), (4, 1, 4), (1, 256, 256), (257, 256, 512), (600, 256, 1024)]
)
def test_rounded_up(number: int, least: int, padded: int) -> None:
    assert rounded_up(number, least) == padded
