"""The whole flow as a user runs it, on a tiny real checkpoint and real engines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pennyweight import checkpoint, traces
from pennyweight.budget import Budget
from pennyweight.console import Silent
from pennyweight.deployment import Deployment
from pennyweight.measurement import Measurement
from pennyweight.plan.machine import measured_hardware
from pennyweight.search import Question, start
from pennyweight.search.bench import ServiceBench
from pennyweight.serve import Endpoint, open_engine
from pennyweight.study import Stage

pytestmark = [pytest.mark.slow, pytest.mark.measures]

# Forty held-out requests can prove this much, even in the fourth attempt on them.
LIMITS = {
    "max_added_nats": 5.0,
    "max_tail_share": 0.4,
    "max_departures": 0.4,
    "max_ending_shift": 0.4,
    "max_length_shift": 0.4,
}
GENEROUS = (
    *(word for name, bound in LIMITS.items() for word in (f"--{name.replace('_', '-')}", str(bound))),
    *("--max-concurrency", "4", "--rounds", "2"),
)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty short prompts."""
    file = tmp_path_factory.mktemp("workload") / "short.jsonl"
    rows = [
        {"id": f"r{i}", "messages": [{"role": "user", "content": f"Tell me {i} things"}], "max_tokens": 12}
        for i in range(80)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pw(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pennyweight", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=dict(os.environ))


@pytest.fixture(scope="module")
def optimised(
    tiny_checkpoint: Path, workload: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """One search over openvino's F16 and Q8_0, done once for the tests that read its result."""
    out = tmp_path_factory.mktemp("search") / "out"
    os.environ["PENNYWEIGHT_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    ran = pw(
        "optimize",
        tiny_checkpoint,
        "-w",
        workload,
        "-o",
        out,
        "--engines",
        "openvino",
        "--schemes",
        "Q8_0",
        "--json",
        *GENEROUS,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("Predicted: about ") == 1
    return out, json.loads(ran.stdout.splitlines()[-1])


def test_the_last_line_has_the_agreed_shape(optimised: tuple[Path, dict[str, Any]]) -> None:
    _, summary = optimised
    assert list(summary) == ["verdict", "chosen", "baseline", "speedup", "quality", "trials", "seconds", "report"]
    assert summary["verdict"] == "ACCEPT"
    assert list(summary["speedup"]) == ["ratio", "ci95", "against"]
    assert list(summary["quality"]) == ["agreement", "added_nats", "task_score", "degradation", "ci95"]
    assert summary["chosen"]["engine"] == "openvino" and summary["baseline"]["engine"] == "transformers"


def test_the_directory_holds_everything(optimised: tuple[Path, dict[str, Any]]) -> None:
    out, _ = optimised
    for name in (
        "deployment.json",
        "evidence.json",
        "DEPLOY.md",
        "report.html",
        "study.jsonl",
        "artifact/lineage.json",
    ):
        assert (out / name).exists(), name
    assert json.loads((out / "deployment.json").read_text())["model_path"] == "artifact"


def test_the_page_works_offline_and_names_every_trial(optimised: tuple[Path, dict[str, Any]]) -> None:
    out, _ = optimised
    page = (out / "report.html").read_text()
    assert "{{" not in page.split("<script", 1)[0]
    assert 'src="http' not in page and "<link" not in page
    for line in (out / "study.jsonl").read_text().splitlines()[1:]:
        assert json.loads(line)["deployment"]["scheme"] in page


def test_verify_accepts_what_was_moved_and_not_changed(optimised: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(optimised[0], moved)
    ran = pw("verify", moved, "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["outcome"] == "ACCEPT"


@pytest.mark.parametrize("change", ["weights", "settings", "margin"])
def test_verify_fails_on_a_change(change: str, optimised: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(optimised[0], copy)
    if change == "weights":
        file = copy / "artifact" / "model.gguf"
        data = bytearray(file.read_bytes())
        data[-5] ^= 255
        file.unlink()  # the copy may be a hard link to the cache
        file.write_bytes(data)
    elif change == "settings":
        deployment = json.loads((copy / "deployment.json").read_text())
        deployment["settings"]["num_threads"] = 1
        (copy / "deployment.json").write_text(json.dumps(deployment))
    else:  # the baseline's answers were better than the candidate's by more than the margin
        evidence = json.loads((copy / "evidence.json").read_text())
        for reference in evidence["references"]:
            reference["logprobs"] = [p + 9 for p in reference["logprobs"]]
        (copy / "evidence.json").write_text(json.dumps(evidence))
    ran = pw("verify", copy)
    assert ran.returncode == 4, ran.stdout + ran.stderr
    assert ran.stderr.count("pw: ") == 1 and "Traceback" not in ran.stderr


def test_resume_does_nothing_twice(
    optimised: tuple[Path, dict[str, Any]], tiny_checkpoint: Path, workload: Path, tmp_path: Path
) -> None:
    """A search cut in the middle of a line goes on: what was measured keeps its numbers."""
    cut = tmp_path / "cut"
    shutil.copytree(optimised[0], cut)
    lines = (cut / "study.jsonl").read_bytes().splitlines(keepends=True)
    keep = 4  # the question, the baseline, both schemes' screens (the second may be skipped: such speeds are noise)
    (cut / "study.jsonl").write_bytes(b"".join(lines[:keep]) + lines[keep][:50])
    ran = pw(
        "optimize",
        tiny_checkpoint,
        "-w",
        workload,
        "-o",
        cut,
        "--engines",
        "openvino",
        "--schemes",
        "Q8_0",
        "--resume",
        "--json",
        *GENEROUS,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Predicted" not in ran.stderr, "of a search whose first part is done"
    resumed = (cut / "study.jsonl").read_bytes().splitlines(keepends=True)
    assert resumed[:keep] == lines[:keep]
    stages = [json.loads(line)["stage"] for line in resumed[1:]]
    assert stages.count("baseline") == 1 and stages.count("screen") + stages.count("skip") == 2


def test_another_question_is_not_resumed(
    optimised: tuple[Path, dict[str, Any]], tiny_checkpoint: Path, workload: Path
) -> None:
    ran = pw("optimize", tiny_checkpoint, "-w", workload, "-o", optimised[0], "--resume", *GENEROUS[2:])
    assert ran.returncode == 1 and "another question" in ran.stderr


def test_an_impossible_budget_is_infeasible_with_the_nearest_point(
    tiny_checkpoint: Path, workload: Path, tmp_path: Path
) -> None:
    ran = pw(
        "optimize",
        tiny_checkpoint,
        "-w",
        workload,
        "-o",
        tmp_path / "out",
        "--engines",
        "openvino",
        "--schemes",
        "F16",
        "--slo",
        "ttft:0.01",
        "--json",
        *GENEROUS,
    )
    assert ran.returncode == 3, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["verdict"] == "INFEASIBLE"
    assert "Nearest" in ran.stderr and "TTFT p95" in ran.stderr
    assert (tmp_path / "out" / "report.html").exists()


def test_a_dry_run_builds_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    ran = pw("optimize", tiny_checkpoint, "-w", "tasks", "-o", tmp_path / "out", "--dry-run")
    assert ran.returncode == 0, ran.stderr
    assert "openvino Q8_0" in ran.stdout and "Predicted" in ran.stdout
    assert not (tmp_path / "out").exists()


class Killing(ServiceBench):
    """The real bench, but that every engine with Q8_0 is killed once it runs."""

    def speed(self, running: Endpoint, *arguments: Any, **more: Any) -> Measurement:
        assert running.process is not None
        if "Q8_0" in running.process.what:
            (engine,) = psutil.Process(running.process.process.pid).children()
            engine.kill()
        return super().speed(running, *arguments, **more)


def test_an_engine_killed_in_its_run_is_one_failed_trial(tiny_checkpoint: Path, workload: Path, tmp_path: Path) -> None:
    question = Question(
        checkpoint.open_model(str(tiny_checkpoint)),
        traces.load(str(workload)),
        Budget(**LIMITS),
        streams=4,
        engines=("openvino",),
        schemes=("Q8_0",),
        rounds=1,
        exhaustive=True,
    )
    run = start(question, tmp_path / "out", measured_hardware(), Silent())
    run.bench = Killing(question, tmp_path / "out", Silent())
    answer = run.run()
    failed = [t for t in run.trials.study.trials if t.failure and t.stage is Stage.SCREEN]
    assert [t.deployment.scheme for t in failed] == ["Q8_0"] and "killed by signal 9" in (failed[0].failure or "")
    assert answer.chosen is not None and answer.chosen.scheme == "F16"
    assert answer.unmodified_wins


def test_a_server_that_we_did_not_start_joins_as_it_is(tiny_checkpoint: Path, workload: Path, tmp_path: Path) -> None:
    model = checkpoint.open_model(str(tiny_checkpoint))
    served = Deployment("transformers", str(model.path), model.id, model.scheme, {"max_num_seqs": 4})
    with open_engine(served) as endpoint:
        ran = pw(
            "optimize",
            tiny_checkpoint,
            "-w",
            workload,
            "-o",
            tmp_path / "out",
            "--engines",
            "remote",
            "--base-url",
            f"{endpoint.base_url}/v1",
            "--json",
            *GENEROUS,
        )
    assert ran.returncode == 0, ran.stderr
    chosen = json.loads(ran.stdout.splitlines()[-1])["chosen"]
    assert chosen["engine"] == "remote" and chosen["settings"]["base_url"] == endpoint.base_url
    refused = pw("serve", tmp_path / "out")
    assert refused.returncode == 1 and "served already" in refused.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--engines", "remote"), "--base-url"),
        (("--engines", "openvino", "--base-url", "http://127.0.0.1:9"), "remote"),
    ],
)
def test_remote_and_its_address_belong_together(words: tuple[str, ...], says: str, tiny_checkpoint: Path) -> None:
    ran = pw("optimize", tiny_checkpoint, *words)
    assert ran.returncode == 2 and says in ran.stderr
