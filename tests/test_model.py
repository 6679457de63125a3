"""Model and Lineage: an id says how a model was made, all the way back to the user's files, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pennyweight import codec
from pennyweight.model import Lineage, Model, Step, canonical_hash

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

words = st.text("abcxyz_0", min_size=1, max_size=6)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
tunings = st.dictionaries(words, scalars, max_size=3)
steps = st.builds(Step, words, tunings, st.dictionaries(words, words, max_size=2))
files = st.dictionaries(words, words, min_size=1, max_size=3)
lineages = st.builds(Lineage, words, files, st.lists(steps, max_size=4).map(tuple))


@STEADY
@given(lineages, words)
def test_the_name_takes_no_part_in_the_id(lineage: Lineage, name: str) -> None:
    assert Lineage(name, lineage.source_files, lineage.steps).id == lineage.id


@STEADY
@given(lineages)
def test_a_lineage_survives_being_written_as_json(lineage: Lineage) -> None:
    again = codec.value_of(Lineage, json.loads(json.dumps(codec.plain(lineage))), "here")
    assert again == lineage and again.id == lineage.id


@STEADY
@given(lineages, steps)
def test_each_step_makes_another_model(lineage: Lineage, step: Step) -> None:
    after = lineage.then(step)
    assert after.id != lineage.id
    assert after.steps == (*lineage.steps, step)
    assert (after.name, after.source_files) == (lineage.name, lineage.source_files)


@STEADY
@given(lineages, steps, steps)
def test_the_order_of_steps_matters(lineage: Lineage, one: Step, other: Step) -> None:
    assert (lineage.then(one).then(other).id == lineage.then(other).then(one).id) == (one == other)


@pytest.mark.parametrize(
    "other",
    [
        Lineage("n", {"f": "2"}, (Step("q", {"bits": 4}, {"lib": "1"}),)),
        Lineage("n", {"g": "1"}, (Step("q", {"bits": 4}, {"lib": "1"}),)),
        Lineage("n", {"f": "1"}, (Step("q", {"bits": 8}, {"lib": "1"}),)),
        Lineage("n", {"f": "1"}, (Step("p", {"bits": 4}, {"lib": "1"}),)),
        Lineage("n", {"f": "1"}, (Step("q", {"bits": 4}, {"lib": "2"}),)),
    ],
    ids=["checksum", "file name", "setting", "technique", "library version"],
)
def test_whatever_changes_the_result_changes_the_id(other: Lineage) -> None:
    assert other.id != Lineage("n", {"f": "1"}, (Step("q", {"bits": 4}, {"lib": "1"}),)).id


@STEADY
@given(st.dictionaries(words, scalars, min_size=2, max_size=5))
def test_the_hash_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert canonical_hash(dict(reversed(value.items()))) == canonical_hash(value)


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert canonical_hash({"b": [1, 2.5, None], "a": "é"}) == "d764fee2563da33e"


def test_a_model_reads_its_config_and_counts_only_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 77}')
    (tmp_path / "a.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "b.safetensors").write_bytes(b"x" * 5)
    (tmp_path / "m.gguf").write_bytes(b"x" * 100)
    lineage = Lineage("tiny", {"a": "1"})
    model = Model(tmp_path, "huggingface", "F32", lineage)
    assert model.config["model_type"] == "llama"
    assert (model.context_length, model.weight_bytes) == (77, 15)
    assert (model.name, model.id) == ("tiny", lineage.id)
    assert Model(tmp_path, "gguf", "Q8_0", lineage).weight_bytes == 100


def test_a_model_whose_config_names_no_context_gets_a_modest_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert Model(tmp_path, "huggingface", "F32", Lineage("x", {})).context_length == 2048
