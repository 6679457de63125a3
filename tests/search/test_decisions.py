"""What a search decides, against a bench whose truth is known: screening, tuning, finals, proof, resume, and how it
ends when things fail."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pennyweight.budget import Budget
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineError
from pennyweight.evidence import SearchOutcome
from pennyweight.search import screening
from pennyweight.study import Stage, Study
from tests.search.fake_bench import FakeBench, Recorder, candidates, search

SPEEDS = {"F32": 100.0, "F16": 300.0, "Q8_0": 500.0, "Q4_0": 900.0, "FP32": 200.0, "INT8": 250.0}
GGUF = (("openvino", "F16"), ("openvino", "Q8_0"), ("openvino", "Q4_0"))


def by_scheme(deployment: Deployment, number: int) -> float:
    return SPEEDS[deployment.scheme]


def stages(study: Study, stage: Stage) -> list[str]:
    return [trial.deployment.scheme for trial in study.trials if trial.stage is stage]


def test_the_fastest_that_holds_the_margin_is_chosen_and_proven(tmp_path: Path) -> None:
    bench = FakeBench(by_scheme, {"Q8_0": 0.005, "Q4_0": 0.3})
    run = search(bench, candidates(*GGUF), tmp_path, exhaustive=True)
    answer = run.run()
    assert answer.outcome is SearchOutcome.ACCEPT
    assert answer.chosen is not None and answer.chosen.scheme == "Q8_0"
    assert answer.fastest_unmodified is not None and answer.fastest_unmodified.scheme == "F16"
    assert answer.against_baseline is not None and answer.against_baseline.ratio == pytest.approx(5.0, rel=0.02)
    assert stages(run.trials.study, Stage.PROVE) == ["Q8_0"]
    assert {trial.notes["streams"] for trial in run.trials.study.of_stage(Stage.SWEEP)} == {1, 2, 4}


def test_what_a_finer_scheme_loses_is_not_built_coarser(tmp_path: Path) -> None:
    bench = FakeBench(by_scheme, {"Q8_0": 0.5, "Q4_0": 0.9})
    run = search(bench, candidates(*GGUF), tmp_path)
    answer = run.run()
    assert answer.chosen is not None and answer.chosen.scheme == "F16" and answer.unmodified_wins
    assert "openvino Q4_0" not in " ".join(bench.opened)
    (skipped,) = run.trials.study.of_stage(Stage.SKIP)
    assert "loses too much already" in (skipped.failure or "")


def test_an_engine_that_serves_another_model_in_full_precision_ends_there(tmp_path: Path) -> None:
    """However fast it is, and whatever its other schemes would show."""
    bench = FakeBench(lambda one, _: 900.0 if one.engine == "openvino" else 100.0, elsewhere={"openvino": 0.3})
    space = candidates(*GGUF, ("onnxruntime", "FP32"))
    run = search(bench, space, tmp_path, exhaustive=False)
    answer = run.run()
    assert answer.chosen is not None and answer.chosen.engine == "onnxruntime"
    assert not any("openvino Q8_0" in label or "openvino Q4_0" in label for label in bench.opened)
    (failed,) = (t for t in run.trials.study.of_stage(Stage.SCREEN) if t.failure)
    assert "broken here" in (failed.failure or "") and "0.300 nats" in (failed.failure or "")


def test_a_slow_prediction_is_skipped_only_once_the_engine_was_measured(tmp_path: Path) -> None:
    run = search(FakeBench(by_scheme), candidates(*GGUF, ("onnxruntime", "FP32")), tmp_path)
    trials = run.trials
    candidate = trials.space.groups["onnxruntime", "FP32", ""][0]
    assert screening.reason_to_skip(trials, candidate) is None  # nothing was measured yet
    run.run()
    trials.corrections["onnxruntime"] = 100.0
    assert "was measured already" in (screening.reason_to_skip(trials, candidate) or "")


def test_settings_are_tuned_one_at_a_time_and_kept_if_they_gain(tmp_path: Path) -> None:
    def speed(deployment: Deployment, number: int) -> float:
        gains = {"enable_prefix_caching": 1.2, "kv_cache_dtype": 0.9}
        settings = deployment.settings
        factor = gains["enable_prefix_caching"] if settings.get("enable_prefix_caching") else 1.0
        factor *= gains["kv_cache_dtype"] if settings.get("kv_cache_dtype") == "bf16" else 1.0
        return SPEEDS[deployment.scheme] * factor

    space = candidates(("openvino", "F16"), enable_prefix_caching=(False, True), kv_cache_dtype=("auto", "bf16"))
    answer = search(FakeBench(speed), space, tmp_path).run()
    assert answer.chosen is not None
    assert answer.chosen.settings == {"max_num_seqs": 4, "enable_prefix_caching": True, "kv_cache_dtype": "auto"}


def test_a_tie_goes_to_the_smaller_weights(tmp_path: Path) -> None:
    def speed(deployment: Deployment, number: int) -> float:
        return {"F32": 100.0, "F16": 505.0, "Q8_0": 500.0}[deployment.scheme]

    answer = search(FakeBench(speed, {"Q8_0": 0.001}), candidates(*GGUF[:2]), tmp_path, exhaustive=True).run()
    assert answer.chosen is not None and answer.chosen.scheme == "Q8_0"


def test_one_lucky_run_does_not_win_the_finals(tmp_path: Path) -> None:
    """F16 looks faster once; the means over the finals say otherwise."""

    def speed(deployment: Deployment, number: int) -> float:
        if deployment.scheme == "F16":
            return 500.0 if number < 2 else 300.0
        return {"F32": 100.0, "Q8_0": 450.0}[deployment.scheme]

    answer = search(FakeBench(speed), candidates(*GGUF[:2]), tmp_path, exhaustive=True).run()
    assert answer.chosen is not None and answer.chosen.scheme == "Q8_0"


def test_an_engine_that_fails_is_one_failed_trial(tmp_path: Path) -> None:
    bench = FakeBench(by_scheme, broken={"Q8_0": "it died"})
    run = search(bench, candidates(*GGUF[:2]), tmp_path, exhaustive=True)
    answer = run.run()
    assert answer.outcome is SearchOutcome.ACCEPT and answer.chosen is not None and answer.chosen.scheme == "F16"
    assert ("screen openvino Q8_0 max_num_seqs=4", "it died") in answer.failures


def test_when_every_candidate_fails_it_is_an_error_with_the_reasons_and_not_infeasible(tmp_path: Path) -> None:
    bench = FakeBench(by_scheme, broken={"openvino": "the library is damaged"})
    answer = search(bench, candidates(*GGUF), tmp_path).run()
    assert answer.outcome is SearchOutcome.ERROR and answer.chosen is None
    assert any("damaged" in reason for _, reason in answer.failures)


def test_what_was_measured_and_missed_is_infeasible_with_the_nearest(tmp_path: Path) -> None:
    bench = FakeBench(by_scheme, budget=Budget(slo={"ttft_p95_ms": 1.0}))
    answer = search(bench, candidates(*GGUF), tmp_path).run()
    assert answer.outcome is SearchOutcome.INFEASIBLE
    assert answer.nearest is not None and answer.nearest.measurement is not None
    assert any(limit.limit.quantity == "ttft_p95_ms" for limit in answer.verdict.limits)


def test_a_baseline_that_cannot_run_ends_the_search_with_its_own_error(tmp_path: Path) -> None:
    bench = FakeBench(by_scheme, broken={"transformers": "no such model"})
    with pytest.raises(EngineError, match="no such model"):
        search(bench, candidates(*GGUF), tmp_path).run()


def test_an_interrupted_baseline_keeps_what_was_answered(tmp_path: Path) -> None:
    space, study = candidates(*GGUF[:1]), Study()
    first = FakeBench(by_scheme, interrupt_after=7)
    with pytest.raises(KeyboardInterrupt):
        search(first, space, tmp_path, study=study).run()
    assert len(first.asked) == 7 and [trial.stage for trial in study.trials] == [Stage.BASELINE]
    second = FakeBench(by_scheme)
    answer = search(second, space, tmp_path, study=study, resume=True).run()
    assert answer.outcome is SearchOutcome.ACCEPT
    assert not set(first.asked) & set(second.asked) and len(first.asked + second.asked) == 40
    assert stages(study, Stage.BASELINE) == ["F32"]


def test_an_answer_cut_while_it_was_written_is_asked_again(tmp_path: Path) -> None:
    space, study = candidates(*GGUF[:1]), Study()
    search(FakeBench(by_scheme), space, tmp_path, study=study).run()
    file = tmp_path / "baseline-held-out.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    again = FakeBench(by_scheme)
    search(again, space, tmp_path, study=study, resume=True).run()
    assert len(again.asked) == 1


def test_a_resumed_search_does_nothing_twice(tmp_path: Path) -> None:
    space, study = candidates(*GGUF), Study()
    search(FakeBench(by_scheme), space, tmp_path, study=study).run()
    count = len(study.trials)
    again = FakeBench(by_scheme)
    answer = search(again, space, tmp_path, study=study, resume=True).run()
    assert answer.outcome is SearchOutcome.ACCEPT
    assert again.opened == [] and again.asked == [] and len(study.trials) == count


def test_every_stage_is_announced(tmp_path: Path) -> None:
    run = search(FakeBench(by_scheme), candidates(*GGUF[:2]), tmp_path)
    run.run()
    listener = run.listener
    assert isinstance(listener, Recorder)
    said = " | ".join(listener.stages)
    for word in ("Baseline", "answers to the held-out", "Screen", "Tune", "Proving", "How much faster"):
        assert word in said
    assert listener.trials == run.trials.study.trials


def test_decisions_take_milliseconds(tmp_path: Path) -> None:
    started = time.process_time()
    search(FakeBench(by_scheme), candidates(*GGUF), tmp_path).run()
    assert time.process_time() - started < 2.0


def test_no_proof_is_paid_for_that_cannot_pass_any_more(tmp_path: Path) -> None:
    """Earlier attempts have left so little error that these requests cannot show anything."""
    run = search(FakeBench(by_scheme), candidates(*GGUF), tmp_path)
    run.attempts.rows.append({"candidate": "", "held_out": "half", "attempt": 30, "outcome": "REJECT"})
    answer = run.run()
    assert answer.chosen is None and not stages(run.trials.study, Stage.PROVE)
    assert isinstance(run.listener, Recorder)
    assert "These requests can prove no further candidate: bring more of them." in run.listener.stages
