"""Keys: hashes at rest."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from pennyweight.errors import StorageError, UsageError
from pennyweight.serve.gateway.keys import Keys, add, read, remove
from pennyweight.serve.gateway.tenant import Tenant


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
