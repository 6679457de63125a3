"""A whole choice between two trained tiny models on a real engine, as a user makes it: found, verified, served, and
calibrated on new traffic."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_front_door import PW
from tests.serve.gateway.gateways import running
from tests.trained_pair import TASKS, questions, trained_pair, written

pytestmark = pytest.mark.slow
KNOWN, UNKNOWN = TASKS  # to the small model


def pw(place: Path, *words: object) -> Any:
    ran = subprocess.run([str(PW), *map(str, words), "--json"], capture_output=True, text=True, timeout=900, cwd=place)
    assert ran.returncode == 0, f"{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
    return json.loads(ran.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path) -> tuple[Path, Any]:
    place = tmp_path_factory.mktemp("pair")
    large, small = trained_pair(place, tokenizer_directory)
    work = written(questions(320), place / "work.jsonl")
    words = ("optimize", large.name, "--also", small.name, "--mix", "kind", "-w", work.name, "-o", "found")
    limits = ("--max-degradation", "5%", "--max-concurrency", "8", "--rounds", "3")
    return place, pw(place, *words, *limits, "--engines", "transformers", "--schemes", "F32")


def test_the_mixture_is_chosen_and_keeps_what_the_small_model_knows(found: tuple[Path, Any]) -> None:
    _, answer = found
    assert answer["winner"] == "mixture", answer


def test_its_certificate_is_verified(found: tuple[Path, Any]) -> None:
    place, _ = found
    assert pw(place, "verify", "found")["outcome"] == "ACCEPT"


def test_it_is_served_by_kind(found: tuple[Path, Any]) -> None:
    place, _ = found
    with running(place / "found", "--state", place / "state") as gateway:
        client = gateway.client()
        for row in questions(8, seed=3):
            asked = {"model": "large", "messages": row["messages"], "max_tokens": 8, "temperature": 0}
            raw = client.chat.completions.with_raw_response.create(**asked)
            kept = row["messages"][0]["content"] == KNOWN
            expected = ("small", "kept by kind") if kept else ("large", "escalated by kind")
            assert (raw.headers["x-pennyweight-model"], raw.headers["x-pennyweight-decision"]) == expected
            assert raw.parse().choices[0].message.content == row["reference"]


def test_new_traffic_certifies_it_again(found: tuple[Path, Any]) -> None:
    place, _ = found
    traffic = written(questions(200, seed=5), place / "traffic.jsonl")
    before = json.loads((place / "found" / "service.json").read_text())
    answer = pw(place, "calibrate", "found", "-w", traffic.name)
    assert answer["certificate"]["requests"] == 200 and answer["departures"] < 0.03  # an upper bound
    after = json.loads((place / "found" / "service.json").read_text())
    assert after != before
