"""What a web page of another site can send is refused; programs, and pages that may, are served."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from pennyweight.browsers import guarded, is_local

JSON = {"content-type": "application/json", "host": "127.0.0.1:8000"}
FRIEND = "https://friend.example"


async def answer(_: Any) -> PlainTextResponse:
    return PlainTextResponse("answered")


def status(headers: dict[str, str], method: str = "POST", **more: Any) -> int:
    inner = Starlette(routes=[Route("/", answer, methods=["GET", "POST"])])
    settings = {"host": "127.0.0.1", "open_to_all": True, "origins": (FRIEND,), **more}
    client = TestClient(guarded(inner, **settings))
    return client.request(method, "/", headers=headers, content=b"{}" if method == "POST" else None).status_code


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (JSON, 200),
        (JSON | {"content-type": "application/json; charset=utf-8"}, 200),
        (JSON | {"content-type": "multipart/form-data; boundary=x"}, 415),
        (JSON | {"content-type": "text/plain"}, 415),
        (JSON | {"content-type": "application/x-www-form-urlencoded"}, 415),
        (JSON | {"host": "localhost:8000"}, 200),
        (JSON | {"host": "[::1]:8000"}, 200),
        (JSON | {"host": "evil.example:8000"}, 403),
        (JSON | {"host": "evil.example:8000", "origin": "http://evil.example:8000"}, 403),
        (JSON | {"host": "127.0.0.1.evil.example"}, 403),
        (JSON | {"origin": "http://127.0.0.1:8000"}, 200),
        (JSON | {"origin": "https://evil.example"}, 403),
        (JSON | {"origin": "null"}, 403),
        (JSON | {"origin": FRIEND}, 200),
    ],
)
def test_what_is_served_without_a_key(headers: dict[str, str], found: int) -> None:
    assert status(headers) == found


def test_reading_is_guarded_too() -> None:
    assert status({"host": "127.0.0.1:8000"}, "GET") == 200
    assert status({"host": "evil.example"}, "GET") == 403


def test_with_keys_or_other_addresses_names_are_the_owners_affair() -> None:
    named = JSON | {"host": "models.example"}
    assert status(named, open_to_all=False) == 200
    assert status(named, host="0.0.0.0") == 200
    assert status(named | {"origin": "https://evil.example"}, host="0.0.0.0") == 403
    assert status(named | {"content-type": "text/plain"}, open_to_all=False) == 415


def test_a_page_that_may_gets_the_headers_that_its_browser_wants() -> None:
    inner = Starlette(routes=[Route("/", answer, methods=["POST"])])
    client = TestClient(guarded(inner, host="127.0.0.1", open_to_all=True, origins=(FRIEND,)))
    made = client.post("/", headers=JSON | {"origin": FRIEND}, content=b"{}")
    assert made.headers["access-control-allow-origin"] == FRIEND


@pytest.mark.parametrize(("host", "local"), [("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)])
def test_loopback_is_known(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_forms_are_for_files_and_files_for_forms() -> None:
    inner = Starlette(routes=[Route("/v1/files", answer, methods=["POST"])])
    client = TestClient(guarded(inner, host="127.0.0.1", open_to_all=True))
    for kind, found in (("multipart/form-data; boundary=x", 200), ("application/json", 415)):
        headers = {"host": "127.0.0.1", "content-type": kind}
        assert client.post("/v1/files", headers=headers, content=b"{}").status_code == found
