"""The report as a person sees it: in a real browser, offline."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pennyweight import report
from pennyweight.budget import Budget
from pennyweight.deployment import Deployment
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.report.words import limits_of, sentences
from pennyweight.study import Trial

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=8000",
)


def measured(throughput: float, nats: float, *, predicted: bool = False) -> Measurement:
    quantities = [
        Quantity("output_throughput", throughput, "tokens/s", "higher", predicted=predicted),
        Quantity("ttft_p95_ms", 900.0, "ms", "lower"),
        Quantity("peak_memory_bytes", 8e8, "bytes", "lower"),
        Quantity("added_nats", nats, "nats/token", "lower", interval=(nats - 0.003, nats + 0.004)),
        Quantity("agreement", 0.97, "1", "higher"),
    ]
    return collect("here", quantities, {"requests": 71})


def trials() -> list[Trial]:
    made = []
    for engine, scheme, speed, nats in (("openvino", "F16", 590, 0.001), ("openvino", "Q8_0", 640, 0.009)):
        deployment = Deployment(engine, "/x", "id", scheme, {"max_num_seqs": 32})
        made.append(
            Trial("screen", deployment, measured(speed, nats), measured(speed * 0.9, 0, predicted=True), None, 20)
        )
    broken = Deployment("onnxruntime", "", "", "INT4", {"max_num_seqs": 32})
    return [*made, Trial("screen", broken, failure="it died <loudly>", seconds=3)]


def evidence(chosen: bool = True) -> dict[str, Any]:
    deployments = [t.deployment.as_json() for t in trials()]
    comparison = {
        "ratio": 2.1,
        "ci95": [2.0, 2.2],
        "within_noise": False,
        "a_tokens_per_s": [640, 650],
        "b_tokens_per_s": [300, 310],
        "against": "transformers BF16",
    }
    return {
        "verdict": "ACCEPT" if chosen else "INFEASIBLE",
        "model": {"name": "Tiny <b>", "id": "1", "lineage": {"source_files": {"a.gguf": "0" * 64}, "steps": []}},
        "workload": {"name": "chat", "id": "2", "requests": 140},
        "question": {"budget": Budget(slo={"ttft_p95_ms": 4000}).as_json(), "streams": 32},
        "chosen": deployments[1] if chosen else None,
        "baseline": deployments[0],
        "fastest_unmodified": deployments[0],
        "unmodified_wins": False,
        "limits": {"limits": [{"quantity": "added_nats", "outcome": "ACCEPT", "reason": "fine"}]},
        "quality": measured(640, 0.009).as_json() if chosen else None,
        "speed": measured(640, 0).as_json() if chosen else None,
        "peak_memory_bytes": {"chosen": 8e8, "baseline": 1e9, "fastest_unmodified": 1e9},
        "speedup": {"baseline": comparison if chosen else None, "fastest_unmodified": None},
        "nearest": trials()[1].as_json(),
        "refused": [["openvino Q4_K_M", "its widths"]],
        "hardware": {
            "cpu": "AMD",
            "cores": 2,
            "flags": ["avx2"],
            "memory_bytes": 2**34,
            "memory_bandwidth": 2**35,
            "arithmetic_rate": {"f32": 1e11},
        },
        "versions": {"python": "3.11"},
    }


def test_three_sentences_say_what_how_fast_and_at_what_loss() -> None:
    choice, speed, loss = sentences(evidence())
    assert "openvino Q8_0" in choice
    assert "2.10 times" in speed and "2.00 to 2.20" in speed
    assert "+0.0090 nats" in loss and "71 held-out" in loss


def test_the_unmodified_model_is_said_to_win() -> None:
    assert "unmodified model wins" in sentences({**evidence(), "unmodified_wins": True})[0]


def test_nothing_chosen_names_the_limit_that_was_missed() -> None:
    short = evidence(chosen=False)
    short["question"]["budget"]["slo"] = {"ttft_p95_ms": 100.0}
    assert "ttft_p95_ms is 900 where 100 is the limit" in " ".join(sentences(short))


def test_every_limit_of_a_budget_is_listed() -> None:
    budget = Budget(max_degradation=0.01, slo={"tpot_p95_ms": 60}, max_memory_bytes=1e9)
    assert set(limits_of(budget.as_json())) == {"added_nats", "degradation", "tpot_p95_ms", "peak_memory_bytes"}


def test_names_and_failures_are_escaped(tmp_path: Path) -> None:
    page = report.write(tmp_path / "report.html", evidence(), trials()).read_text()
    assert "Tiny &lt;b&gt;" in page and "it died &lt;loudly&gt;" in page


def test_an_infeasible_search_has_a_page_too(tmp_path: Path) -> None:
    assert "INFEASIBLE" in report.write(tmp_path / "report.html", evidence(chosen=False), trials()).read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian package chromium)")
def test_a_browser_draws_the_plots(tmp_path: Path) -> None:
    page = report.write(tmp_path / "report.html", evidence(), trials())
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert len(re.findall(r'class="main-svg"', dom)) >= 3
    assert "openvino" in dom and "Serve and verify" in dom
