"""Deployment: its id is what is served and not where it lies, its labels are short."""

from __future__ import annotations

import dataclasses

import pytest

from pennyweight.deployment import Deployment

ONE = Deployment("openvino", "/models/a", "abc", "Q8_0", {"max_num_seqs": 8, "num_threads": 0}, model_name="tiny")


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "x"},
        {"model_id": "x"},
        {"scheme": "x"},
        {"recipe": "prune"},
        {"settings": {"max_num_seqs": 9, "num_threads": 0}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_service_changes_the_id(change: dict[str, object]) -> None:
    assert dataclasses.replace(ONE, **change).id != ONE.id  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"model_path": "/elsewhere"}, {"model_name": "x"}, {"settings": {"num_threads": 0, "max_num_seqs": 8}}],
    ids=["place", "name", "order of settings"],
)
def test_what_does_not_change_the_service_keeps_the_id(change: dict[str, object]) -> None:
    assert dataclasses.replace(ONE, **change).id == ONE.id  # type: ignore[arg-type]


def test_the_label_names_engine_scheme_and_settings() -> None:
    assert ONE.label == "openvino Q8_0 max_num_seqs=8 num_threads=0"
    assert dataclasses.replace(ONE, settings={}).label == "openvino Q8_0"


def test_the_short_label_names_what_is_set() -> None:
    settings = {"enable_prefix_caching": True, "kv_cache_dtype": "auto", "max_num_seqs": 8, "runner": "pooling"}
    chosen = dataclasses.replace(ONE, settings=settings, recipe="prune")
    assert chosen.short_label == "openvino Q8_0 prune (prefix caching, 8 sequences, runner=pooling)"
    assert dataclasses.replace(ONE, settings={"enable_prefix_caching": False}).short_label == "openvino Q8_0"
