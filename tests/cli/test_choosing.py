"""`pw optimize LARGE --also SMALL`: what is refused before anything runs, and what a dry run lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.test_front_door import last_row, pw


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    rows = [
        {"id": f"r{n}", "prompt": f"Once {n}", "max_tokens": 4, "reference": "1", "scorer": "numeric"}
        for n in range(900)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_a_dry_run_lists_forms_of_both(tiny_checkpoint: Path, workload: Path, tmp_path: Path) -> None:
    words = ("optimize", tiny_checkpoint, "--also", tiny_checkpoint, "--mix", "cascade", "-w", workload)
    ran = pw(*words, "--engines", "transformers", "--dry-run", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = last_row(ran)["models"]
    assert len(found) == 2 and all("transformers" in forms[0] for forms in found.values()), "names are told apart"
    assert not (tmp_path / "pennyweight-out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--mix", "cascade"), "--also"),
        (("--also", "MODEL", "--mix", "cascades"), "--mix cascades is unknown"),
        (("--also", "MODEL", "--slo", "ttft:100"), "--slo is no option of a choice between models"),
        (("--also", "MODEL", "--max-degradation", "0.1%"), "independent requests"),
        (("--also", "nowhere"), "nowhere does not exist"),
        (("--also", "MODEL", "--resume"), "holds no choice between models to resume"),
    ],
)
def test_bad_questions(
    words: tuple[str, ...], says: str, tiny_checkpoint: Path, workload: Path, tmp_path: Path
) -> None:
    named = [str(tiny_checkpoint) if word == "MODEL" else word for word in words]
    ran = pw("optimize", tiny_checkpoint, "-w", workload, *named, cwd=tmp_path)
    assert ran.returncode in (1, 2) and says in " ".join(ran.stderr.split())


def test_a_question_file_keeps_the_other_models(tiny_checkpoint: Path, workload: Path, tmp_path: Path) -> None:
    words = ("optimize", tiny_checkpoint, "--also", tiny_checkpoint, "-w", workload, "--engines", "transformers")
    assert pw(*words, "--write-config", "q.yaml", cwd=tmp_path).returncode == 0
    assert yaml.safe_load((tmp_path / "q.yaml").read_text())["also"] == [str(tiny_checkpoint)]
    ran = pw("optimize", "-c", "q.yaml", "--dry-run", cwd=tmp_path)
    assert ran.returncode == 0 and "Nothing was built" in ran.stdout, ran.stderr


def test_calibrate_needs_a_mixture(tmp_path: Path, workload: Path) -> None:
    ran = pw("calibrate", tmp_path, "-w", workload)
    assert ran.returncode in (1, 2) and "Traceback" not in ran.stderr and str(tmp_path) in ran.stderr
