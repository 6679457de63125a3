"""Study: whatever moment a search was stopped at, it resumes from what it had finished."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight import codec, formats
from pennyweight.deployment import Deployment
from pennyweight.errors import StorageError
from pennyweight.journal import Journal
from pennyweight.measurement import Quantity, collect
from pennyweight.study import Stage, Trial

QUESTION = {"model": "m", "budget": {"slo": {"ttft_p95_ms": 5.0}}, "engines": None, "schemes": ["Q8_0"]}


def trial(number: int, **fields: Any) -> Trial:
    quantity = Quantity("output_throughput", number / 3, "tokens/s", "higher", raw=(1.0, 2.5), interval=(0.0, 1.0))
    fields = {"measurement": collect("séquence", [quantity], {"seed": number}), "seconds": 1.5, **fields}
    return Trial(Stage.SCREEN, Deployment("scripted", "/m", "id", "BF16", {"max_num_seqs": number}), **fields)


TRIALS = [
    trial(1, predicted=collect("p", [Quantity("a", 1.0, "ms", "lower", predicted=True)])),
    trial(2, measurement=None, failure="It died:\nline two — ünïcode.", notes={"round": 1}),
    trial(3),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    study = Journal(tmp_path / "deep" / "study.jsonl", QUESTION)
    for made in TRIALS:
        study.append(made)
    return study.path


def test_a_study_resumes_with_the_trials_that_it_had(file: Path) -> None:
    assert Journal(file, QUESTION, resume=True).trials == TRIALS


def test_a_study_cut_anywhere_after_its_header_resumes_with_the_whole_lines(file: Path) -> None:
    whole = file.read_bytes()
    header = whole.index(b"\n") + 1
    for cut in range(header, len(whole) + 1):
        file.write_bytes(whole[:cut])
        finished = whole[header:cut].count(b"\n")
        assert Journal(file, QUESTION, resume=True).trials == TRIALS[:finished], cut
        assert file.read_bytes() == whole[: whole[:cut].rindex(b"\n") + 1], cut


@pytest.mark.parametrize("lost", [1, 30])
def test_a_resumed_study_goes_on_after_the_cut(file: Path, lost: int) -> None:
    file.write_bytes(file.read_bytes()[:-lost])
    Journal(file, QUESTION, resume=True).append(trial(4))
    assert Journal(file, QUESTION, resume=True).trials == [*TRIALS[:2], trial(4)]


def test_a_study_cut_within_its_header_is_refused_by_name(file: Path) -> None:
    header = file.read_bytes().split(b"\n")[0]
    for cut in range(len(header) + 1):
        file.write_bytes(header[:cut])
        with pytest.raises(StorageError, match=r"study\.jsonl.*another directory"):
            Journal(file, QUESTION, resume=True)


@pytest.mark.parametrize("header", ["[]", "{}", "5", '{"question": 5}', '{"question": null}'])
def test_a_file_that_is_no_study_is_refused_by_name(header: str, tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    path.write_text(header + "\n")
    with pytest.raises(StorageError, match=r"study\.jsonl"):
        Journal(path, QUESTION, resume=True)


@pytest.mark.parametrize("line", ["[]", "{}", "5", "null", '{"stage": "screen"}', '{"stage": 1, "deployment": []}'])
def test_a_damaged_line_in_the_middle_is_refused_by_name(line: str, file: Path) -> None:
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(StorageError, match=r"study\.jsonl"):
        Journal(file, QUESTION, resume=True)


def test_another_question_is_refused_and_the_difference_named(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(StorageError, match=r"another question \(different: schemes\)"):
        Journal(file, {**QUESTION, "schemes": ["Q4_0"]}, resume=True)
    assert file.read_bytes() == before


def test_a_question_that_asked_for_more_is_refused_and_the_difference_named(file: Path) -> None:
    with pytest.raises(StorageError, match="schemes"):
        Journal(file, {name: value for name, value in QUESTION.items() if name != "schemes"}, resume=True)


def test_without_resume_a_study_starts_again(file: Path) -> None:
    assert Journal(file, QUESTION).trials == []
    assert Journal(file, QUESTION, resume=True).trials == []


def test_resume_without_a_file_starts_a_study(tmp_path: Path) -> None:
    study = Journal(tmp_path / "new.jsonl", QUESTION, resume=True)
    study.append(TRIALS[0])
    assert Journal(study.path, QUESTION, resume=True).trials == TRIALS[:1]


def test_find_gives_the_last_trial_of_a_stage_for_a_deployment(tmp_path: Path) -> None:
    study = Journal(tmp_path / "s.jsonl", QUESTION)
    first, second = study.append(trial(1, seconds=1.0)), study.append(trial(1, seconds=2.0))
    assert study.find(Stage.SCREEN, first.deployment.id) is second
    assert study.find(Stage.PROVE, first.deployment.id) is None
    assert study.find(Stage.SCREEN, "unknown") is None


def test_each_line_is_json_that_other_tools_can_read(file: Path) -> None:
    header, *lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert header == {"schema_version": formats.SCHEMA_VERSION, "question": QUESTION}
    assert [codec.value_of(Trial, line, "here") for line in lines] == TRIALS


def test_a_full_disk_is_a_storage_error_that_names_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Journal(file, QUESTION, resume=True)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"study\.jsonl.*No space left on device.*free some space"):
        study.append(trial(9))


def test_a_place_where_nothing_can_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        Journal(tmp_path / "file" / "study.jsonl", QUESTION)


def test_a_study_of_release_0_1_0_is_the_same_question_with_its_defaults_written_out(tmp_path: Path) -> None:
    now = {"model": "m", "budget": {"max_added_nats": 0.02}, "engines": None, "speculate": False, "remote": None}
    before = {"model": "m", "budget": {"objective": "throughput", "max_added_nats": 0.02, "slo": {}}, "engines": None}
    file = tmp_path / "study.jsonl"
    file.write_text(json.dumps({"question": before}) + "\n")
    assert Journal(file, now, resume=True).trials == []
    with pytest.raises(StorageError, match="different: speculate, budget"):
        Journal(file, {**now, "speculate": True, "budget": {"max_added_nats": 0.03}}, resume=True)
