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
from pennyweight.evidence import Evidence, SearchOutcome, Speedup
from pennyweight.hardware import Hardware
from pennyweight.measurement import Comparison, Measurement, Quantity, collect
from pennyweight.model import Lineage
from pennyweight.report.phrasing import interval, limits_of, sentences, with_unit
from pennyweight.study import Stage, Trial

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
        predicted = measured(speed * 0.9, 0, predicted=True)
        made.append(Trial(Stage.SCREEN, deployment, measured(speed, nats), predicted, seconds=20))
    broken = Deployment("onnxruntime", "", "", "INT4", {"max_num_seqs": 32})
    return [*made, Trial(Stage.SCREEN, broken, failure="it died <loudly>", seconds=3)]


def evidence(chosen: bool = True, **more: Any) -> Evidence:
    first, second, _ = (trial.deployment for trial in trials())
    budget = Budget(slo={"ttft_p95_ms": 4000})
    compared = Comparison(2.1, (2.0, 2.2), (640, 650), (300, 310))
    values: dict[str, Any] = {
        "outcome": SearchOutcome.ACCEPT if chosen else SearchOutcome.INFEASIBLE,
        "model_id": "1",
        "model_name": "Tiny <b>",
        "lineage": Lineage("Tiny <b>", {"a.gguf": "0" * 64}),
        "question": {},
        "budget": budget,
        "streams": 32,
        "workload_name": "chat",
        "workload_id": "2",
        "workload_requests": 140,
        "baseline": first,
        "limits": budget.judge(measured(640, 0.009)),
        "hardware": Hardware("AMD", 2, 2**34, ("avx2",), 2**35, {"f32": 1e11}),
        "chosen": second if chosen else None,
        "fastest_unmodified": first,
        "quality": measured(640, 0.009) if chosen else None,
        "speed": measured(640, 0) if chosen else None,
        "against_baseline": Speedup("transformers BF16", compared) if chosen else None,
        "nearest": trials()[1],
        "refused": (("openvino Q4_K_M", "its widths"),),
        "failures": (("screen onnxruntime INT4", "it died <loudly>"),),
        "versions": {"python": "3.11"},
        "peak_memory_bytes": {"chosen": 8e8, "baseline": 1e9, "fastest_unmodified": 1e9},
    }
    return Evidence(**{**values, **more})


def write(path: Path, found: Evidence) -> Path:
    return report.write(path / "report.html", found, trials(), colours={"openvino": "#2a78d6"})


def test_three_sentences_say_what_how_fast_and_at_what_loss() -> None:
    choice, speed, loss = sentences(evidence())
    assert "openvino Q8_0" in choice
    assert "2.10 times" in speed and "2.00 to 2.20" in speed
    assert "+0.0090 nats" in loss and "71 held-out" in loss


def test_the_unmodified_model_is_said_to_win() -> None:
    assert "unmodified model wins" in sentences(evidence(unmodified_wins=True))[0]


def test_nothing_chosen_names_the_limit_that_was_missed() -> None:
    short = evidence(chosen=False, budget=Budget(slo={"ttft_p95_ms": 100.0}))
    assert "TTFT p95 is 900 ms where 100 ms is the limit" in " ".join(sentences(short))


def test_nothing_measured_says_what_failed() -> None:
    found = " ".join(sentences(evidence(chosen=False, outcome=SearchOutcome.ERROR)))
    assert "could be measured" in found and "it died <loudly>" in found and "budget" not in found


def test_a_busy_machine_is_said() -> None:
    late = measured(640, 0)
    found = evidence(speed=Measurement(late.subject, late.quantities, {"late_generator_ms": 31.0}))
    assert "31.0 ms late" in " ".join(sentences(found))


def test_every_limit_of_a_budget_is_listed() -> None:
    budget = Budget(max_degradation=0.01, slo={"tpot_p95_ms": 60}, max_memory_bytes=1e9)
    named = {limit.quantity for limit in limits_of(budget)}
    assert named >= {"added_nats", "degradation", "tail_share", "tpot_p95_ms", "peak_memory_bytes"}


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        ("peak_memory_bytes", 250 * 2**20, "250 MiB"),
        ("ttft_p95_ms", 412.3, "412 ms"),
        ("tpot_p95_ms", 4.123, "4.12 ms"),
        ("agreement", 0.9, "0.900"),
        ("added_nats", 0.0088, "+0.0088"),
        ("added_nats", float("inf"), "unknown"),
    ],
)
def test_numbers_have_the_units_that_people_say(quantity: str, value: float, text: str) -> None:
    assert with_unit(quantity, value) == text


def test_an_interval_without_ends_is_not_printed() -> None:
    open_ended = Quantity("added_nats", 0.1, "nats", "lower", interval=(float("-inf"), float("inf")))
    assert interval(open_ended) == "too few requests for an interval"


def test_names_and_failures_are_escaped(tmp_path: Path) -> None:
    page = write(tmp_path, evidence()).read_text()
    assert "Tiny &lt;b&gt;" in page and "it died &lt;loudly&gt;" in page


def test_a_page_says_only_what_is_true_of_its_outcome(tmp_path: Path) -> None:
    accepted = write(tmp_path, evidence()).read_text()
    assert "pw serve DIR" in accepted and 'class="verdict accept"' in accepted
    infeasible = write(tmp_path, evidence(chosen=False)).read_text()
    assert "pw serve" not in infeasible and 'class="verdict infeasible"' in infeasible
    failed = write(tmp_path, evidence(chosen=False, outcome=SearchOutcome.ERROR)).read_text()
    assert "pw serve" not in failed and "--resume" in failed and 'class="verdict error"' in failed


def test_the_page_is_small_and_fetches_nothing(tmp_path: Path) -> None:
    page = write(tmp_path, evidence())
    assert page.stat().st_size < 1_500_000
    text = page.read_text()
    assert "{{" not in text and "src=" not in text and "<link" not in text and "<script" not in text
    assert "inf" not in re.sub(r"infeasible|information|INFEASIBLE", "", text) and "nan" not in text.lower()


def test_rejected_points_are_marked(tmp_path: Path) -> None:
    page = write(tmp_path, evidence(chosen=False, budget=Budget(max_added_nats=0.005))).read_text()
    assert 'class="point rejected"' in page and "Q8_0, rejected" in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian package chromium)")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_the_plots_in_any_width(tmp_path: Path, width: int) -> None:
    page = write(tmp_path, evidence())
    assert CHROMIUM is not None
    script = "<script>document.title = `${document.documentElement.scrollWidth} ${innerWidth}`</script></body>"
    page.write_text(page.read_text().replace("</body>", script))
    size = f"--window-size={width},900"
    command = [CHROMIUM, *FLAGS, size, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert dom.count("<svg") >= 4 and "openvino" in dom and "Serve and verify" in dom
    found = re.search(r"<title>(\d+) (\d+)</title>", dom)
    assert found is not None and int(found[1]) <= int(found[2])  # nothing sticks out sideways
