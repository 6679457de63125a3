"""Keys: hashes at rest, limits by the minute."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from pennyweight.errors import StorageError, UsageError
from pennyweight.serve.gateway.admission import Shed
from pennyweight.serve.gateway.keys import Bucket, Keys, Tenant, add, read, remove


def test_a_key_is_nowhere_but_with_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add(file, Tenant("alice"))
    assert key not in file.read_text() and len(key) > 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = Keys(file)
    found = keys.tenant(f"Bearer {key}")
    assert found is not None and found.name == "alice"
    for wrong in ("", key, f"Basic {key}", f"Bearer {key}x", "Bearer ", "Bearer \ud800"):
        assert keys.tenant(wrong) is None


def test_without_a_file_anybody_may_ask() -> None:
    found = Keys(None).tenant("")
    assert found is not None and found.name == "anybody"


def test_names_are_their_own_and_can_be_removed(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add(file, Tenant("alice"))
    with pytest.raises(UsageError, match="alice"):
        add(file, Tenant("alice"))
    with pytest.raises(UsageError, match="it has alice"):
        remove(file, "bob")
    remove(file, "alice")
    assert read(file) == []
    with pytest.raises(UsageError, match="priority"):
        add(file, Tenant("eve", priority=-1))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [{"nome": 1}]}', json.dumps({"keys": 3})]
)
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(StorageError, match=r"keys\.json"):
        read(file)


def test_a_bucket_fills_by_the_minute() -> None:
    now = 0.0
    bucket = Bucket(60, clock=lambda: now)
    bucket.take(60)
    assert bucket.missing_seconds(1) == pytest.approx(1.0)
    now = 30.0
    assert bucket.missing_seconds(30) == 0.0
    assert bucket.missing_seconds(45) == pytest.approx(15.0)
    assert bucket.missing_seconds(1000) == pytest.approx(30.0)  # more than ever fits: when it is full
    now = 1000.0
    assert bucket.missing_seconds(60) == 0.0


def test_limits_are_each_tenant_s_own(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys_of = {name: add(file, Tenant(name, requests_per_minute=2, tokens_per_minute=100)) for name in ("a", "b")}
    keys = Keys(file)
    a, b = (keys.tenant(f"Bearer {key}") for key in keys_of.values())
    assert a and b
    keys.charge(a, 90)
    with pytest.raises(Shed, match="tokens") as refused:
        keys.charge(a, 50)
    assert 1 <= refused.value.retry_after <= 60
    keys.refund(a, 80)
    keys.charge(a, 50)
    with pytest.raises(Shed, match="requests"):
        keys.charge(a, 1)
    keys.charge(b, 90)
