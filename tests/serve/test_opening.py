"""Services and engines as they are opened to be measured."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from pennyweight.deployment import Deployment
from pennyweight.errors import EngineError
from pennyweight.serve import open_engine, open_service
from pennyweight.service import Service

BODY = b'{"model": "tiny", "prompt": "once upon a time", "max_tokens": 64}'


def scripted(directory: Path, **settings: object) -> Deployment:
    return Deployment("scripted", str(directory), "tiny", "BF16", settings, model_name="tiny")


def ask(base_url: str) -> int:
    request = urllib.request.Request(base_url + "/v1/completions", BODY, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_service_is_opened_behind_its_gateway(tokenizer_directory: Path) -> None:
    with open_service(Service.of(scripted(tokenizer_directory))) as endpoint:
        assert endpoint.model == "tiny" and endpoint.process is not None
        (engine,) = psutil.Process(endpoint.process.process.pid).children()
        assert "worker" in " ".join(engine.cmdline())
        assert ask(endpoint.base_url) == 200
        with urllib.request.urlopen(endpoint.base_url + "/status", timeout=5) as answer:
            assert b'"replicas"' in answer.read()
    assert not engine.is_running()


def test_an_engine_alone_has_no_gateway(tokenizer_directory: Path) -> None:
    with open_engine(scripted(tokenizer_directory)) as endpoint:
        assert ask(endpoint.base_url) == 200
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(endpoint.base_url + "/status", timeout=5)


def test_an_engine_that_does_not_load_is_the_gateways_error(tokenizer_directory: Path) -> None:
    with (
        pytest.raises(EngineError, match="fault=load"),
        open_service(Service.of(scripted(tokenizer_directory, fault="load"))),
    ):
        pass


def test_a_lost_engine_is_an_error_for_whoever_asks_and_whoever_waits(tokenizer_directory: Path) -> None:
    service = Service.of(scripted(tokenizer_directory, fault="die", fault_after=8, max_num_seqs=1))
    with open_service(service) as endpoint:
        assert [ask(endpoint.base_url) for _ in range(3)] == [503, 503, 503]
