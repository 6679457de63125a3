"""The command line as its users see it: answers, exit codes, and one sentence where something is wrong."""

from __future__ import annotations

import json
import select
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pennyweight import cli, formats
from pennyweight.deployment import Deployment
from pennyweight.hardware import Hardware
from pennyweight.measure import replay
from pennyweight.processes import free_port
from pennyweight.serve import Endpoint

VERBS = (
    "bench",
    "compare",
    "distill",
    "doctor",
    "draft",
    "engines",
    "evaluate",
    "export",
    "optimize",
    "prune",
    "quantize",
    "serve",
    "share-kv-heads",
    "trim-vocabulary",
    "verify",
)


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def row(self) -> dict:
        return json.loads(self.out.strip().splitlines()[-1])

    def refused(self, code: int, *words: str) -> None:
        """It ended with this code and one sentence on standard error that holds these words."""
        last = self.err.strip().splitlines()[-1]
        assert (self.code, last[:4]) == (code, "pw: "), self
        assert "Traceback" not in self.err and "Internal error" not in self.err
        assert all(word in last for word in words), last


Pw = Callable[..., Ran]


@pytest.fixture
def pw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pw:
    monkeypatch.setattr(replay, "LONGEST_LAG", 5.0)  # the tests' machine may be busy

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["pw", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        seen = capsys.readouterr()
        return Ran(int(leaving.value.code or 0), seen.out, seen.err)

    return run


@pytest.fixture
def deployed(tmp_path: Path, tokenizer_directory: Path) -> Callable[..., Path]:
    def make(name: str = "deployment", **settings: object) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        formats.write_deployment(directory, Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", settings))
        return directory

    return make


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "work.jsonl"
    rows = [{"id": f"r{n}", "prompt": f"word {n}", "max_tokens": 6} for n in range(80)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_help_lists_the_verbs(pw: Pw) -> None:
    ran = pw("--help")
    assert ran.code == 0
    assert all(verb in ran.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(pw: Pw, verb: str) -> None:
    ran = pw(verb, "--help")
    assert ran.code == 0 and verb in ran.out


# -- usage --


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["quantize", "demo", "--scheme", "Q9"], "Q9"),
        (["optimize", "demo", "--max-degradation", "0%"], "contradicts"),
        (["optimize", "demo", "--objective", "cost"], "--price-per-hour"),
        (["optimize", "demo", "--objective", "joy"], "joy"),
        (["optimize", "demo", "--max-cost", "1"], "--price-per-hour"),
        (["optimize", "demo", "--slo", "speed:5"], "speed"),
        (["optimize", "demo", "--max-memory", "big"], "big"),
        (["optimize", "demo", "--rounds", "0"], "--rounds"),
        (["bench", "x", "--as-recorded", "--request-rate", "3"], "contradict"),
        (["bench", "http://127.0.0.1:9", "--engine", "scripted"], "URL"),
        (["compare", "a", "b", "--rounds", "1"], "--rounds"),
        (["evaluate", "a", "--against", "b", "--max-tail-share", "-1"], "max-tail-share"),
        (["bench", "x", "--warp"], "--warp"),
        (["bench"], "target"),
        (["fly"], "fly"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_code_2(pw: Pw, words: list[str], word: str) -> None:
    pw(*words).refused(2, word)


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "nowhere"],
        ["evaluate", "nowhere", "--against", "nowhere"],
        ["compare", "nowhere", "nowhere"],
        ["serve", "nowhere"],
        ["verify", "nowhere"],
        ["quantize", "nowhere", "--scheme", "Q8_0"],
        ["optimize", "nowhere"],
    ],
    ids=lambda words: words[0],
)
def test_what_is_not_there_is_named_with_code_1(pw: Pw, words: list[str]) -> None:
    pw(*words).refused(1, "nowhere")


def test_a_broken_deployment_file_is_named(pw: Pw, tmp_path: Path) -> None:
    (tmp_path / "deployment.json").write_text("{}")
    pw("bench", tmp_path).refused(1, "deployment.json")


def test_an_unknown_setting_is_named(pw: Pw, deployed: Callable[..., Path], workload: Path) -> None:
    pw("bench", deployed(), "-w", workload, "--set", "warp=9").refused(1, "warp")


def test_a_missing_workload_is_named(pw: Pw, deployed: Callable[..., Path]) -> None:
    pw("bench", deployed(), "-w", "no-such-work").refused(1, "no-such-work")


def test_a_server_that_is_not_there_is_named(pw: Pw, workload: Path) -> None:
    pw("bench", "http://127.0.0.1:9", "-w", workload).refused(1, "http://127.0.0.1:9")


@pytest.mark.slow
def test_an_engine_that_will_not_load_says_why(pw: Pw, deployed: Callable[..., Path], workload: Path) -> None:
    pw("bench", deployed(fault="load"), "-w", workload).refused(1, "fault=load")


def test_a_request_too_long_for_the_model_is_one_sentence(pw: Pw, scripted_endpoint: Endpoint, tmp_path: Path) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text("".join(json.dumps({"id": n, "prompt": f"x {n}", "max_tokens": 9999}) + "\n" for n in range(80)))
    url = scripted_endpoint.base_url
    pw("evaluate", url, "--against", url, "-w", long).refused(1, "512")


def test_an_output_directory_that_is_there_is_not_overwritten(pw: Pw, tmp_path: Path) -> None:
    pw("quantize", "demo", "--scheme", "Q8_0", "-o", tmp_path).refused(1, "already there")


# -- optimize, up to where it would begin --


@pytest.fixture
def model(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model directory on a machine that nobody has to measure."""
    from pennyweight.plan import machine

    monkeypatch.setattr(machine, "measured_hardware", lambda **_: Hardware("cpu", 2, 2**33, (), 1e10, {"fp32": 1e11}))
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def test_a_search_is_not_resumed_where_there_is_none(pw: Pw, model: Path, workload: Path, tmp_path: Path) -> None:
    pw("optimize", model, "-w", workload, "-o", tmp_path / "new", "--resume").refused(1, "no search to resume")


def test_a_search_does_not_begin_in_a_directory_in_use(pw: Pw, model: Path, workload: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("precious")
    pw("optimize", model, "-w", workload, "-o", used).refused(1, "already there", "--resume")
    assert [f.name for f in used.iterdir()] == ["thesis.txt"]


def test_a_task_gate_needs_labels(pw: Pw, model: Path, workload: Path) -> None:
    pw("optimize", model, "-w", workload, "--max-degradation", "1%").refused(2, "labelled")


@pytest.mark.parametrize(("option", "word"), [("--schemes", "Q9"), ("--engines", "warp")])
def test_unknown_candidates_are_refused(pw: Pw, model: Path, workload: Path, option: str, word: str) -> None:
    pw("optimize", model, "-w", workload, option, word, "--dry-run").refused(2, word)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["prune", "--layers", 2], "from 1 to 1"),
        (["prune"], "--layers"),
        (["prune", "--layers", 0], "leaves nothing"),
        (["prune", "--intermediate-size", 100], "use 96"),
        (["prune", "--kv-groups", 3], "has 2"),
        (["prune", "--target-params", "ten"], "100M"),
        (["prune", "--target-params", "1B"], "ask for fewer"),
        (["prune", "--target-params", "10k", "--layers", 1], "contradicts"),
        (["prune", "--by", "luck"], "--by"),
        (["prune", "--sparsity", "3:4"], "2:4"),
        (["share-kv-heads", "--heads", 2], "does not divide"),
        (["trim-vocabulary", "--tokens", 100], "use 64"),
        (["trim-vocabulary", "--tokens", 4096], "has 512"),
        (["distill", "--teacher", "TEACHER", "--round-to", "Q3"], "--round-to"),
        (["distill", "--teacher", "TEACHER", "--steps", 0], "--steps"),
        (["draft", "--layers", 2], "makes no draft"),
    ],
    ids=str,
)
@pytest.mark.slow
def test_a_change_that_cannot_be_made_is_refused(pw: Pw, tiny_checkpoint: Path, words: list[object], word: str) -> None:
    verb, *rest = [str(tiny_checkpoint) if part == "TEACHER" else part for part in words]
    ran = pw(verb, tiny_checkpoint, *rest)
    assert ran.code in (1, 2)
    ran.refused(ran.code, word)


@pytest.mark.slow
def test_a_corpus_too_small_to_trust_says_how_much_is_needed(pw: Pw, tiny_checkpoint: Path, workload: Path) -> None:
    pw("trim-vocabulary", tiny_checkpoint, "-w", workload).refused(1, "2048")
    pw("prune", tiny_checkpoint, "--layers", 1, "-w", workload).refused(1, "2048")


def test_an_unknown_engine_is_refused(pw: Pw, model: Path) -> None:
    pw("bench", model, "--engine", "warp").refused(2, "warp")


# -- what it measures --


def test_bench_of_a_deployment_ends_with_one_line_of_json(
    pw: Pw, deployed: Callable[..., Path], workload: Path, tmp_path: Path
) -> None:
    ran = pw(
        "bench",
        deployed(),
        "-w",
        workload,
        "--num-prompts",
        5,
        "--goodput",
        "ttft:9000",
        "e2el:9000",
        "--json",
        "-o",
        tmp_path / "m.json",
    )
    assert ran.code == 0
    assert ran.row["output_throughput"] > 0 and ran.row["goodput_share"] == 1.0
    assert ran.row["peak_memory_bytes"] > 0
    assert json.loads((tmp_path / "m.json").read_text())["conditions"]["requests"] == 5


def test_several_loads_are_a_table_and_files(
    pw: Pw, deployed: Callable[..., Path], workload: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"s.{name}" for name in ("csv", "html", "jsonl", "json")}
    outputs = ("--csv", files["csv"], "--plot", files["html"], "--save-requests", files["jsonl"], "-o", files["json"])
    ran = pw("bench", deployed(), "-w", workload, "--num-prompts", 4, "--max-concurrency", "1,2", "--json", *outputs)
    assert ran.code == 0
    assert [row["arrivals"]["max_concurrency"] for row in ran.row["loads"]] == [1, 2]
    assert len(files["csv"].read_text().splitlines()) == 3 and len(files["jsonl"].read_text().splitlines()) == 8
    assert "2 at a time" in files["html"].read_text() and len(json.loads(files["json"].read_text())) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--request-timeout", "-1"], "--request-timeout -1"),
        (["--max-concurrency", "inf"], "whole number"),
        (["--csv", "nodir/x.csv"], "does not exist"),
        (["--tokenizer", "nowhere"], "tokenizer.json"),
        (["--temperature", "nan"], "--temperature"),
        (["--as-recorded", "--time-scale", "inf"], "finite"),
        (["--too-long", "maybe"], "refuse, drop or truncate"),
    ],
)
def test_values_of_bench_that_mean_nothing_are_refused(
    pw: Pw, deployed: Callable[..., Path], workload: Path, words: list[str], says: str
) -> None:
    pw("bench", deployed(), "-w", workload, *words).refused(2, says)


def test_an_address_without_its_scheme_is_named(pw: Pw, workload: Path) -> None:
    pw("bench", "127.0.0.1:9/v1", "-w", workload).refused(2, "http://")


def test_bench_of_a_url_finds_the_model_and_knows_no_memory(
    pw: Pw, scripted_endpoint: Endpoint, workload: Path
) -> None:
    ran = pw("bench", f"{scripted_endpoint.base_url}/v1", "-w", workload, "--json")
    assert ran.code == 0
    assert ran.row["output_throughput"] > 0 and "peak_memory_bytes" not in ran.row


def test_evaluate_accepts_a_deployment_against_itself(
    pw: Pw, scripted_endpoint: Endpoint, deployed: Callable[..., Path], workload: Path
) -> None:
    ran = pw("evaluate", deployed(), "--against", scripted_endpoint.base_url, "-w", workload, "--json")
    assert (ran.code, ran.row["verdict"]) == (0, "ACCEPT")
    assert ran.row["quantities"]["added_nats"]["value"] == 0.0
    assert ran.row["conditions"]["requests"] == 40  # the held-out half


def test_evaluate_rejects_with_code_4_and_says_what_was_lost(
    pw: Pw, scripted_endpoint: Endpoint, deployed: Callable[..., Path], workload: Path
) -> None:
    ran = pw("evaluate", deployed(loss=0.5), "--against", scripted_endpoint.base_url, "-w", workload, "--json")
    ran.refused(4, "added_nats")
    assert ran.row["verdict"] == "REJECT"


def test_compare_tells_the_ratio(pw: Pw, scripted_endpoint: Endpoint, workload: Path) -> None:
    url = scripted_endpoint.base_url
    ran = pw("compare", url, url, "-w", workload, "--rounds", 2, "--json")
    assert ran.code == 0 and "times as fast" in ran.out
    assert len(ran.row["a_tokens_per_s"]) == 2
    assert ran.row["ci95"][0] <= ran.row["ratio"] <= ran.row["ci95"][1]


def test_serve_answers_until_it_is_told_to_stop(deployed: Callable[..., Path]) -> None:
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "pennyweight", "serve", str(deployed()), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            assert select.select([running.stdout], [], [], 30)[0], "it never said that it serves"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
                assert json.loads(answer.read())["data"][0]["id"] == "model"
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
        finally:
            running.kill()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)


@pytest.mark.slow
def test_doctor_describes_this_machine(pw: Pw) -> None:
    ran = pw("doctor", "--json")
    assert ran.code == 0
    assert ran.row["hardware"]["memory_bandwidth"] > 0
    assert "openvino" in ran.row["engines"]


def test_engines_are_listed_with_what_they_take_and_how_they_come(pw: Pw) -> None:
    ran = pw("engines", "--json")
    assert ran.code == 0
    rows = {row["engine"]: row for row in ran.row}
    assert {"openvino", "onnxruntime", "llamacpp", "vllm", "transformers"} <= rows.keys()
    assert rows["llamacpp"]["install"] == "pw engines install llamacpp"
    assert rows["openvino"]["where"] and "prefix caching" in rows["openvino"]["presets"]
    for name in rows:
        assert name in ran.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("polish",), "list, install NAME, remove NAME or conform"),
        (("install",), "needs the name"),
        (("install", "abacus"), "abacus"),
        (("install", "openvino"), "pip install"),
        (("remove", "openvino"), "pip"),
    ],
)
def test_engines_refuses_what_it_cannot_do(words: tuple[str, ...], says: str, pw: Pw) -> None:
    pw("engines", *words).refused(2, says)


def test_removing_what_is_not_there_says_so(pw: Pw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYWEIGHT_ENGINES", str(tmp_path))
    pw("engines", "remove", "vllm").refused(2, "nothing to remove")
