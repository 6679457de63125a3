"""The files that people keep: read as they were written, whichever release wrote them, and refused by name."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pennyweight import codec, formats
from pennyweight.deployment import Deployment
from pennyweight.errors import StorageError
from pennyweight.evidence import Evidence, SearchOutcome
from pennyweight.service import CachePolicy, Service

ONE = Deployment("openvino", "/models/a", "abc", "Q8_0", {"max_num_seqs": 8}, model_name="tiny")
TWO = Deployment("llamacpp", "/models/b", "def", "Q4_0", {}, model_name="small")
BOTH = Service(
    {"a": ONE, "b": TWO}, {"tiny": "a", "alias": "a", "small": "b"}, {"b": 2}, CachePolicy("redis://x", 60.0)
)
FIRST_RELEASE = Path(__file__).parent / "data" / "release-0.1.0"


def test_a_deployment_reads_as_a_service_of_one(tmp_path: Path) -> None:
    file = formats.write_deployment(tmp_path, ONE)
    assert formats.read_service(file) == formats.read_service(tmp_path) == Service.of(ONE)
    assert json.loads(file.read_text())["schema_version"] == formats.SCHEMA_VERSION


def test_a_service_reads_as_it_was_written(tmp_path: Path) -> None:
    formats.write("service", tmp_path / "service.json", BOTH)
    assert formats.read_service(tmp_path) == BOTH


def test_a_relative_model_path_is_meant_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    formats.write_deployment(tmp_path / "out", replace(ONE, model_path="model"))
    monkeypatch.chdir(tmp_path)
    only = formats.read_service(Path("out")).only
    assert only is not None and only.model_path == str(tmp_path / "out" / "model")


GARBAGE = {
    "no json": ("{", "JSON"),
    "no object": ("[1, 2]", "object"),
    "a field too few": (json.dumps({"schema_version": 2, "engine": "x"}), "model_path"),
    "a field too many": (json.dumps({**formats.as_json(ONE), "colour": "red"}), "colour"),
    "a path that is a number": (json.dumps({**formats.as_json(ONE), "model_path": 5}), "model_path"),
    "settings that are a list": (json.dumps({**formats.as_json(ONE), "settings": [1]}), "settings"),
    "a version that is text": (json.dumps({**formats.as_json(ONE), "schema_version": "two"}), "schema_version"),
    "empty": ("", "JSON"),
}


@pytest.mark.parametrize(("text", "word"), GARBAGE.values(), ids=GARBAGE.keys())
def test_a_file_that_is_no_deployment_is_refused_by_name(text: str, word: str, tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    file.write_text(text)
    with pytest.raises(StorageError) as refusal:
        formats.read_service(tmp_path)
    assert str(file) in str(refusal.value) and word in str(refusal.value)


@pytest.mark.parametrize("name", [".", "absent", "absent.json"])
def test_a_place_without_a_deployment_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist") as refusal:
        formats.read_service(tmp_path / name)
    assert str(tmp_path) in str(refusal.value)


def test_a_key_of_a_newer_release_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    newer = {**formats.as_json(ONE), "schema_version": 3, "colour": "red"}
    (tmp_path / "deployment.json").write_text(json.dumps(newer))
    with caplog.at_level(logging.WARNING):
        assert formats.read_service(tmp_path).only == ONE
    assert "colour" in caplog.text


def test_what_release_0_1_0_wrote_still_reads() -> None:
    service = formats.read_service(FIRST_RELEASE)
    only = service.only
    assert only is not None and only.engine == "openvino" and Path(only.model_path).is_absolute()
    assert service.names == ("model",)  # as its clients called it
    evidence: Evidence = formats.read("evidence", FIRST_RELEASE / "evidence.json")
    assert evidence.outcome is SearchOutcome.ACCEPT and evidence.chosen is not None
    assert evidence.quality is not None and evidence.quality["added_nats"] == pytest.approx(0, abs=1)
    assert evidence.against_baseline is not None and evidence.against_baseline.comparison.ratio > 0
    assert len(evidence.held_out) == len(evidence.references) > 0
    rows = [json.loads(line) for line in (FIRST_RELEASE / "study.jsonl").read_text().splitlines()[1:]]
    trials = [formats.value_of("trial", row, "study.jsonl") for row in rows]
    assert {str(trial.stage) for trial in trials} >= {"baseline", "screen", "tune", "prove", "compare"}
    assert any(trial.comparison for trial in trials)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_shipped_schemas_are_those_of_the_classes(name: str) -> None:
    shipped = json.loads((Path(formats.__file__).parent / "schemas" / f"{name}.json").read_text())
    assert shipped == formats.schema(name), "run `python -m pennyweight.formats`"


def test_numbers_that_are_not_finite_survive() -> None:
    from pennyweight.measurement import Quantity

    quantity = Quantity("a", 1.0, "ms", "lower", interval=(float("-inf"), float("inf")))
    written: dict[str, Any] = json.loads(json.dumps(codec.plain(quantity), allow_nan=False))
    assert codec.value_of(Quantity, written, "here") == quantity


@pytest.mark.parametrize("version", [True, 0, -1, "2", 1.5])
def test_a_version_that_is_none_is_refused(version: object, tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    file.write_text(json.dumps({"schema_version": version, "engine": "scripted"}))
    with pytest.raises(StorageError, match="schema_version"):
        formats.read_service(file)


def test_the_caches_place_is_meant_from_the_file(tmp_path: Path) -> None:
    made = Service({"a": ONE}, {"a": "a"}, cache=CachePolicy("answers.db"))
    formats.write("service", tmp_path / "service.json", made)
    assert formats.read_service(tmp_path).cache.place == str(tmp_path / "answers.db")
    formats.write("service", tmp_path / "service.json", Service({"a": ONE}, {"a": "a"}, cache=CachePolicy("redis://x")))
    assert formats.read_service(tmp_path).cache.place == "redis://x"


def test_a_model_is_no_service_and_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StorageError, match="is a model, not a service: add --engine"):
        formats.read_service(tmp_path)


def test_the_documented_question_file_has_options_that_exist() -> None:
    from pennyweight.cli import options
    from pennyweight.cli.command_line import app

    text = (Path(__file__).parents[1] / "docs" / "formats.md").read_text().split("```yaml")[1].split("```")[0]
    command = next(one for one in app.registered_commands if one.name == "optimize")
    assert command.callback is not None and options
    known = {name.replace("_", "-") for name in command.callback.__code__.co_varnames}
    assert set(yaml.safe_load(text)) <= known


def test_a_search_that_has_not_ended_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "study.jsonl").write_text("{}\n")
    with pytest.raises(StorageError, match="--resume"):
        formats.read_service(tmp_path)
