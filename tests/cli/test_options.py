"""Words of the command line: what they become, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight import engines
from pennyweight.cli import options
from pennyweight.cli.command_line import repeat_names, spread_pairs
from pennyweight.errors import UsageError
from pennyweight.inputs import read_workload


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ("--goodput ttft:500 tpot:60", "--goodput ttft:500,tpot:60"),
        ("bench d --slo ttft:500 tpot:60 e2el:9 --json", "bench d --slo ttft:500,tpot:60,e2el:9 --json"),
        ("--goodput ttft:500 directory", "--goodput ttft:500 directory"),
        ("--name ttft:500 tpot:60", "--name ttft:500 tpot:60"),
        ("a:1 b:2", "a:1 b:2"),
        ("", ""),
    ],
)
def test_pairs_after_their_option_become_one_word(given: str, spread: str) -> None:
    assert spread_pairs(given.split()) == spread.split()


@pytest.mark.parametrize(
    ("given", "repeated"),
    [
        ("serve d --served-model-name a b --port 1", "serve d --served-model-name a --served-model-name b --port 1"),
        ("serve --served-model-name a d", "serve --served-model-name a d"),
        ("serve d --served-model-name a", "serve d --served-model-name a"),
        ("serve d", "serve d"),
    ],
)
def test_several_names_after_their_option(given: str, repeated: str) -> None:
    assert repeat_names(given.split()) == repeated.split()


@pytest.mark.parametrize(
    ("text", "found"),
    [(None, {}), ("", {}), ("ttft:500", {"ttft": 500.0}), ("ttft:500, tpot:6.5", {"ttft": 500.0, "tpot": 6.5})],
)
def test_pairs(text: str | None, found: dict[str, float]) -> None:
    assert options.pairs(text, "--goodput") == found


@pytest.mark.parametrize("text", ["ttft", "ttft:", "ttft:fast"])
def test_what_is_no_pair_is_refused_by_the_options_name(text: str) -> None:
    with pytest.raises(UsageError, match="--goodput"):
        options.pairs(text, "--goodput")


def test_slos_name_the_quantities_that_are_measured() -> None:
    assert options.slo("ttft:500,e2el:900", 95) == {"ttft_p95_ms": 500.0, "e2e_p95_ms": 900.0}


@pytest.mark.parametrize(("text", "percentile", "word"), [("speed:5", 95, "speed"), ("ttft:5", 42, "42")])
def test_slos_that_are_not_measured_are_refused(text: str, percentile: int, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        options.slo(text, percentile)


@pytest.mark.parametrize(("text", "value"), [(None, None), ("1%", 0.01), ("0.05", 0.05), ("12.5%", 0.125)])
def test_shares(text: str | None, value: float | None) -> None:
    assert options.share(text, "--x") == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize("text", ["much", "%", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-degradation"):
        options.share(text, "--max-degradation")


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, None), ("2GiB", 2 * 2**30), ("800MB", 800e6), ("1.5 gib", 1.5 * 2**30), ("1024", 1024), ("3kb", 3000)],
)
def test_sizes(text: str | None, value: float | None) -> None:
    assert options.size(text, "--max-memory") == value


@pytest.mark.parametrize("text", ["big", "2GiBB", "-1GiB", "", "1.2.3GiB", "."])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-memory"):
        options.size(text, "--max-memory")


def test_settings_take_the_type_they_look_like() -> None:
    words = ["a=1", "b=1.5", "c=true", "d=False", "e=text", "f-g=x=y"]
    assert options.settings(words) == {"a": 1, "b": 1.5, "c": True, "d": False, "e": "text", "f_g": "x=y"}
    assert options.settings(None) == {}


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="name=value"):
        options.settings(["fast"])


def test_a_whole_number_may_be_given_for_a_setting_that_takes_fractions() -> None:
    assert engines.make("scripted", options.settings(["step_ms=4"])).step_ms == 4.0  # type: ignore[attr-defined]


def test_arrivals_are_recorded_or_at_a_rate_or_a_closed_loop() -> None:
    assert options.arrivals(8, None, 1.0, recorded=True, time_scale=0.5).kind == "recorded"
    assert options.arrivals(8, 3.0, 1.0, recorded=False, time_scale=1.0).kind == "poisson"
    assert options.arrivals(8, 3.0, 0.5, recorded=False, time_scale=1.0).kind == "gamma"
    closed = options.arrivals(8, None, 1.0, recorded=False, time_scale=1.0)
    assert (closed.kind, closed.max_concurrency) == ("closed", 8)


@pytest.mark.parametrize(
    "wrong",
    [(8, 3.0, 1.0, True, 1.0), (8, -1.0, 1.0, False, 1.0), (0, None, 1.0, False, 1.0), (8, None, 1.0, True, 0.0)],
)
def test_arrivals_that_contradict_themselves_are_refused(wrong: tuple) -> None:
    with pytest.raises(UsageError):
        options.arrivals(*wrong[:3], recorded=wrong[3], time_scale=wrong[4])


def test_a_trace_of_lengths_needs_a_tokenizer(tmp_path: Path, tokenizer_directory: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 20, "output_length": 5, "hash_ids": [1]}\n')
    with pytest.raises(UsageError, match="--tokenizer"):
        read_workload(str(trace))
    (request,) = read_workload(str(trace), tokenizer=tokenizer_directory).requests
    assert len(request.prompt_tokens) == 20


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, {}),
        (
            '{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}',
            {"speculative_method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4},
        ),
        (
            '{"model": "draft", "num_speculative_tokens": 3}',
            {"draft_model": "draft", "speculative_method": "draft_model", "num_speculative_tokens": 3},
        ),
    ],
)
def test_speculation_is_spelled_as_vllm_spells_it(text: str | None, found: dict[str, object]) -> None:
    assert options.speculation(text) == found


@pytest.mark.parametrize("text", ["ngram", "[1]", '{"methode": "ngram"}'])
def test_what_is_no_speculation_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--speculative-config"):
        options.speculation(text)
