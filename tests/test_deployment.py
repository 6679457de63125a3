"""Deployment: one JSON value, whose id is what is served and not where it lies."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pennyweight.deployment import DEPLOYMENT_FILE, Deployment
from pennyweight.errors import StorageError

ONE = Deployment("openvino", "/models/a", "abc", "Q8_0", {"max_num_seqs": 8, "num_threads": 0}, "tiny")


@pytest.mark.parametrize(
    "change",
    [{"engine": "x"}, {"model_id": "x"}, {"scheme": "x"}, {"settings": {"max_num_seqs": 9, "num_threads": 0}}],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_service_changes_the_id(change: dict[str, object]) -> None:
    assert dataclasses.replace(ONE, **change).id != ONE.id  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"model_path": "/elsewhere"}, {"served_name": "x"}, {"settings": {"num_threads": 0, "max_num_seqs": 8}}],
    ids=["place", "served name", "order of settings"],
)
def test_what_does_not_change_the_service_keeps_the_id(change: dict[str, object]) -> None:
    assert dataclasses.replace(ONE, **change).id == ONE.id  # type: ignore[arg-type]


def test_the_label_names_engine_scheme_and_settings() -> None:
    assert ONE.label == "openvino Q8_0 max_num_seqs=8 num_threads=0"
    assert dataclasses.replace(ONE, settings={}).label == "openvino Q8_0"


def test_a_deployment_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = ONE.write(tmp_path)
    assert path == tmp_path / DEPLOYMENT_FILE
    assert Deployment.read(path) == Deployment.read(tmp_path) == ONE


def test_a_relative_model_path_is_meant_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    dataclasses.replace(ONE, model_path="model").write(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert Deployment.read(Path("out")).model_path == str(tmp_path / "out" / "model")


GARBAGE = {
    "no json": "{",
    "no object": "[1, 2]",
    "a field too few": json.dumps({"engine": "x"}),
    "a field too many": json.dumps({**ONE.as_json(), "colour": "red"}),
    "a path that is a number": json.dumps({**ONE.as_json(), "model_path": 5}),
    "settings that are a list": json.dumps({**ONE.as_json(), "settings": [1]}),
    "empty": "",
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_file_that_is_no_deployment_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / DEPLOYMENT_FILE
    file.write_text(text)
    with pytest.raises(StorageError) as refusal:
        Deployment.read(tmp_path)
    assert str(file) in str(refusal.value)
    assert "pw optimize" in str(refusal.value)


@pytest.mark.parametrize("name", [".", "absent", "absent.json"])
def test_a_place_without_a_deployment_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist") as refusal:
        Deployment.read(tmp_path / name)
    assert str(tmp_path) in str(refusal.value)
