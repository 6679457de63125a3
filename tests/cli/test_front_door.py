"""What everybody meets first: version, bare `pw`, completion, question files, JSON on failure, the cache, a
workload."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import pennyweight
from pennyweight import checkpoint, techniques
from pennyweight.techniques.quantize import Quantize

PW = Path(sys.executable).with_name("pw")


def pw(*words: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(PW), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=cwd, env={**os.environ, **environment}
    )


def last_row(ran: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(ran.stdout.strip().splitlines()[-1])


def test_version() -> None:
    ran = pw("--version")
    assert ran.returncode == 0 and pennyweight.__version__ in ran.stdout


def test_bare_pw_shows_help_and_is_no_error() -> None:
    ran = pw(COLUMNS="80")
    assert ran.returncode == 0 and "optimize" in ran.stdout
    summaries = ran.stdout.split("Commands:")[1].splitlines()
    assert not [line for line in summaries if line.endswith("...")]


@pytest.mark.parametrize("words", [("optimise",), ("optimize",), ("bench", "nowhere"), ("optimize", "nowhere")])
def test_a_failure_is_one_line_of_json_too(words: tuple[str, ...], tmp_path: Path) -> None:
    ran = pw(*words, "--json", cwd=tmp_path)
    assert ran.returncode in (1, 2)
    error = last_row(ran)["error"]
    assert error["kind"] and error["message"] in " ".join(ran.stderr.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_verbs(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = pw("--show-completion", _PW_COMPLETE="", SHELL=program, cwd=tmp_path)
    completion = pw(_PW_COMPLETE=f"source_{shell}", cwd=tmp_path)
    assert completion.returncode == 0 and "pw" in completion.stdout, script.stderr
    file = tmp_path / f"pw.{shell}"
    file.write_text(completion.stdout)
    inside = {
        "bash": f"source {file}; COMP_WORDS=(pw opt); COMP_CWORD=1; _pw_completion pw; echo ${{COMPREPLY[@]}}",
        "zsh": f"autoload -U compinit; compinit -u -d {tmp_path}/dump; source {file}; "
        "_arguments() { print -l $@; }; _describe() { print -l $completions_with_descriptions $completions; }; "
        "compadd() { print -l $@; }; words=(pw opt); CURRENT=2; _pw_completion",
        "fish": f"source {file}; complete -C 'pw opt'",
    }[shell]
    environment = {**os.environ, "PATH": f"{PW.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    ran = subprocess.run([program, "-c", inside], capture_output=True, text=True, timeout=60, env=environment)
    assert "optimize" in ran.stdout, ran


def test_a_question_file_keeps_every_option_and_the_command_line_wins(tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = ("optimize", tiny_checkpoint, "-w", "tasks", "--slo", "ttft:1500", "tpot:60", "--engines", "openvino")
    ran = pw(*words, "--write-config", "question.yaml", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    written = yaml.safe_load((tmp_path / "question.yaml").read_text())
    assert written["model"] == str(tiny_checkpoint) and written["workload"] == "tasks"
    ran = pw("optimize", "-c", "question.yaml", "--engines", "onnxruntime", "--dry-run", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "onnxruntime FP32" in ran.stdout and "openvino F16" not in ran.stdout


@pytest.mark.parametrize(
    ("text", "says"), [("optimise: 1\n", "'optimise' is unknown"), ("[1, 2]\n", "no options"), ("a: [\n", "not YAML")]
)
def test_a_question_file_that_is_wrong_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "question.yaml").write_text(text)
    ran = pw("optimize", "-c", "question.yaml", cwd=tmp_path)
    assert ran.returncode == 2 and says in ran.stderr and "question.yaml" in ran.stderr


def test_an_engine_that_is_not_installed_is_refused_before_anything_is_opened(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    words = ("optimize", tiny_checkpoint, "-w", "tasks", "--engines", "llamacpp", "-o", "out")
    ran = pw(*words, cwd=tmp_path, PENNYWEIGHT_ENGINES=str(tmp_path / "none"))
    assert ran.returncode == 1 and "pw engines install llamacpp" in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_cache_is_listed_and_pruned(tiny_checkpoint: Path) -> None:
    made = techniques.apply(Quantize("FP32"), checkpoint.open_model(str(tiny_checkpoint)))
    listed = {row["id"]: row for row in last_row(pw("cache", "list", "--json"))["artifacts"]}
    assert "quantize FP32" in listed[made.path.name]["made_of"] and listed[made.path.name]["bytes"] > 1000
    assert last_row(pw("cache", "prune", "--json"))["removed"] == []  # used just now
    assert made.path.name in last_row(pw("cache", "prune", "--all", "--json"))["removed"]
    assert not made.path.exists()


def test_an_action_that_the_cache_lacks_is_refused() -> None:
    ran = pw("cache", "clear")
    assert ran.returncode == 2 and "list, prune, inspect, forget or refit" in ran.stderr


def test_a_workload_is_described_with_its_odd_rows(tmp_path: Path, tokenizer_directory: Path) -> None:
    rows = [{"id": f"r{n}", "session": f"s{n}", "prompt": f"say {n}", "max_tokens": 8} for n in range(80)]
    rows += [{"id": "long", "session": "long", "prompt": "word " * 600, "max_tokens": 8}]
    rows += [{"id": "same", "session": "same", "prompt": "say 1", "max_tokens": 8}]
    (tmp_path / "w.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = pw("workload", "w.jsonl", "--model", tokenizer_directory, "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    row = last_row(ran)
    assert row["requests"] == 82 and row["labelled"] == 0
    odd = " ".join(row["odd"])
    assert "'long' do not fit" in odd and "'r1', 'same' repeat" in odd
    assert "no held-out request is labelled" in " ".join(row["decides"])


@pytest.mark.slow
def test_paths_in_a_question_file_are_meant_from_the_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    place = tmp_path / "Über Büro"
    place.mkdir()
    (place / "my model").symlink_to(tiny_checkpoint)
    (place / "question.yaml").write_text("model: my model\nworkload: tasks\nengines: [openvino]\n")
    ran = pw("optimize", "-c", "Über Büro/question.yaml", "--dry-run", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_another_embedding_must_be_one_and_have_a_use(tmp_path: Path, tiny_checkpoint: Path) -> None:
    alone = pw("serve", tiny_checkpoint, "--cache-similar-embedding", ".", cwd=tmp_path)
    assert alone.returncode == 2 and "does nothing without --cache-similar" in alone.stderr
    words = ("--cache", "answers.db", "--cache-similar", "5%", "--cache-similar-embedding", ".")
    empty = pw("serve", tiny_checkpoint, *words, cwd=tmp_path)
    assert empty.returncode == 2 and "has no model.onnx" in empty.stderr
